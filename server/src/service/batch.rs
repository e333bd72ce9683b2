//! The answers of a batch: each consumer exactly once, equal sets once, messages of a bounded size.
//! Who is asked for rankings, and how many at a time, is not decided here.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::StreamExt;
use prost::Message as _;
use touchline_proto::{
    encoded::ComponentSet,
    serving::BatchGetComponentsResponse,
    v1::{
        BatchGetComponentsRequest, ConsumerAnswer, ConsumerError, Purpose, consumer_answer::Answer,
    },
};
use touchline_runtime::traces::Span;
use touchline_store::ids::ConsumerId;

use super::{
    Api, convert, place,
    trace::{self, Answering},
    validate::Violations,
};
use crate::{
    components::SetId,
    error::Error,
    layers::Deadline,
    recommend::{
        Details, Origin, Query,
        budget::Priority,
        refinement::Refinement,
        serving::{Chunk, Freshness, Lookup},
        standing::Situation,
    },
    sets::Decided,
    status::Streamed,
    watch::Seen,
};

/// Consumers of one batch.
const CONSUMERS_MAX: usize = 1_000;
/// Sets that one message of a batch carries, in bytes; far below the 4 MB that clients accept.
const PART_BYTES_MAX: usize = 1 << 20;

impl Api {
    /// Answers a batch, part by part.
    pub(super) fn batch(
        &self,
        request: BatchGetComponentsRequest,
        deadline: Deadline,
        span: &mut Span,
    ) -> Result<Streamed<BatchGetComponentsResponse>, Error> {
        let place = place(&self.batches, "the server's limit of batches")?;
        let refines = self.sets.rankings().recommender().refines();
        let batch = Batch::read(request, refines)?;
        span.count("touchline.consumers", batch.consumer_ids.len());
        trace::say_state(span, &batch.seen);
        let trace = span.place();
        let Situation {
            context, standing, ..
        } = match batch.priority {
            // It may never come: it supersedes nothing, and nothing is learned from it.
            Priority::Prefetch => Situation::alone(self.sets.context(&batch.seen)),
            _ => self.sets.situation(&batch.seen),
        };
        if batch.priority == Priority::Push {
            let event_id = &batch.seen.state.event_id;
            self.sets.note(event_id, &batch.consumer_ids);
        }
        let refinement = self.sets.refinement(batch.refinement);
        let num_results = self.sets.num_results(batch.num_results, &refinement);
        let lookups = batch
            .consumer_ids
            .into_iter()
            .map(|consumer_id| Lookup {
                query: Query {
                    consumer_id,
                    context: context.clone(),
                    num_results,
                    refinement: refinement.clone(),
                },
                deadline: deadline.at,
                priority: batch.priority,
                standing: standing.clone(),
                trace: trace.clone(),
            })
            .collect();
        // Nobody is shown what is only warmed: nothing counts against a cap.
        let is_shown = batch.priority != Priority::Prefetch;
        let shown = is_shown.then(|| batch.seen.clone());
        let decided = self.sets.clone().decide_all(lookups, shown, deadline.at)?;
        let mut decided = decided.boxed();
        let mut parts = Parts::new(batch.seen);
        let mut answering = Answering::new(std::mem::take(span));
        let stream = async_stream::stream! {
            let _place = place;
            while let Some(chunk) = decided.next().await {
                answering.count(&chunk);
                for part in parts.of(chunk) {
                    yield Ok(part);
                }
            }
        };
        Ok(stream.boxed())
    }
}

/// A BatchGetComponentsRequest, checked.
struct Batch {
    seen: Arc<Seen>,
    consumer_ids: Vec<ConsumerId>,
    num_results: u32,
    refinement: Option<Refinement>,
    priority: Priority,
}

impl Batch {
    fn read(request: BatchGetComponentsRequest, refines: bool) -> Result<Self, Error> {
        let priority = match request.purpose() {
            Purpose::Unspecified | Purpose::Push => Priority::Push,
            Purpose::Caller => Priority::Caller,
            Purpose::Warm => Priority::Prefetch,
        };
        let mut violations = Violations::default();
        let seen = match request.state {
            // The row may hold whatever DynamoDB accepts, so its attributes have no further limits.
            Some(state) => convert::seen(state)
                .map_err(|invalid| {
                    let field = match invalid.field() {
                        "content_id" => "state.content_ids".to_owned(),
                        field => format!("state.{field}"),
                    };
                    violations.add(field, invalid.to_string());
                })
                .ok(),
            None => {
                violations.add("state", "is required");
                None
            }
        };
        violations.at_most("consumer_ids", request.consumer_ids.len(), CONSUMERS_MAX);
        let consumer_ids = request
            .consumer_ids
            .iter()
            .take(CONSUMERS_MAX)
            .enumerate()
            .filter_map(|(index, text)| match ConsumerId::new(text) {
                Ok(consumer_id) => Some(consumer_id),
                Err(invalid) => {
                    violations.add(format!("consumer_ids[{index}]"), invalid.to_string());
                    None
                }
            })
            .collect();
        violations.num_results(request.num_results);
        let num_results = request.num_results;
        let refinement = violations.refinement(request.refinement, num_results, refines);
        violations.finish()?;
        Ok(Self {
            seen: Arc::new(seen.expect("a missing state is a violation")),
            consumer_ids,
            num_results,
            refinement,
            priority,
        })
    }
}

/// Everything that two consumers' sets can differ in, apart from the recommendation id.
#[derive(PartialEq, Eq, Hash)]
struct Same {
    set_id: SetId,
    /// Rank and score of each component.
    places: Box<[(u32, u64)]>,
    details: Box<[Option<Arc<Details>>]>,
    origin: Origin,
    freshness: Freshness,
    age: Duration,
}

/// Makes the messages of one batch: equal sets are sent once and named by index.
struct Parts {
    seen: Arc<Seen>,
    sent: HashMap<Same, u32>,
}

impl Parts {
    fn new(seen: Arc<Seen>) -> Self {
        Self {
            seen,
            sent: HashMap::new(),
        }
    }

    fn of(&mut self, chunk: Chunk<Decided>) -> Vec<BatchGetComponentsResponse> {
        let mut done = Vec::new();
        let mut part = BatchGetComponentsResponse::default();
        let mut bytes = 0;
        for (index, decided) in chunk {
            if bytes >= PART_BYTES_MAX {
                done.push(std::mem::take(&mut part));
                bytes = 0;
            }
            let (answer, recommendation_id) = match decided {
                Ok(mut decided) => {
                    let recommendation_id = decided.recommendation_id.take();
                    let (set_index, new) = self.index(decided);
                    if let Some(set) = new {
                        bytes += set.encoded_len();
                        part.component_sets.push(set);
                    }
                    (Answer::ComponentSetIndex(set_index), recommendation_id)
                }
                Err(error) => {
                    let (code, message) = Error::from(error).for_one_consumer();
                    (Answer::Error(ConsumerError { code, message }), None)
                }
            };
            part.answers.push(ConsumerAnswer {
                consumer_index: u32::try_from(index).unwrap_or(u32::MAX),
                answer: Some(answer),
                recommendation_id: recommendation_id.unwrap_or_default(),
            });
        }
        done.push(part);
        done
    }

    /// The index of a set, and the set itself if it was not sent before.
    fn index(&mut self, mut decided: Decided) -> (u32, Option<ComponentSet>) {
        // Ages in whole seconds: finer ones would tell equal sets apart.
        decided.age = Duration::from_secs(decided.age.as_secs());
        let components = &decided.moderated.components;
        let same = Same {
            set_id: decided.moderated.set_id,
            places: components
                .iter()
                .map(|component| {
                    let score = component.score.unwrap_or_default();
                    (component.rank, score.to_bits())
                })
                .collect(),
            details: components
                .iter()
                .map(|component| component.details.clone())
                .collect(),
            origin: decided.origin,
            freshness: decided.freshness,
            age: decided.age,
        };
        let next = u32::try_from(self.sent.len()).unwrap_or(u32::MAX);
        let index = *self.sent.entry(same).or_insert(next);
        let new = (index == next).then(|| convert::component_set(&decided, Some(&self.seen)));
        (index, new)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use touchline_store::{
        event::EventState,
        ids::{EventId, ItemId, ItemType},
        item::Item,
    };

    use super::*;
    use crate::{
        catalog::Catalog,
        components::{
            moderate,
            policies::{Asked, Policies, Who},
        },
        recommend::{RankedItem, Ranking},
    };

    fn parts() -> Parts {
        Parts::new(Arc::new(Seen::from_table(EventState {
            event_id: EventId::new("1").unwrap(),
            attributes: BTreeMap::new(),
            contents: Default::default(),
        })))
    }

    /// A set of one item, whose label has this many bytes.
    fn decided(score: f64, label_bytes: usize) -> Decided {
        let item_id = ItemId::new("bet").unwrap();
        let catalog = Catalog::new(vec![Item {
            item_id: item_id.clone(),
            item_type: ItemType::new("MONETIZE").unwrap(),
            attributes: [("item_label".to_owned(), "x".repeat(label_bytes))].into(),
        }]);
        let items = vec![RankedItem {
            item_id,
            score: Some(score),
            details: None,
        }];
        let asked = Asked {
            policies: &Policies::default(),
            who: Who::default(),
            context: &Default::default(),
            now: 0,
            shown: None,
        };
        Decided {
            moderated: Arc::new(moderate(&items, &catalog, &asked)),
            ranking: Arc::new(Ranking {
                items,
                recommendation_id: None,
                origin: Origin::Embedded,
            }),
            recommendation_id: Some(format!("for {score}")),
            origin: Origin::Embedded,
            freshness: Freshness::Live,
            age: Duration::ZERO,
            later: None,
        }
    }

    #[test]
    fn a_message_never_grows_far_beyond_its_limit() {
        let chunk = (0..64)
            .map(|index| (index, Ok(decided(index as f64, 100_000))))
            .collect();
        let messages = parts().of(chunk);
        assert!(messages.len() >= 6, "{} messages", messages.len());
        for message in &messages {
            assert!(message.encoded_len() < PART_BYTES_MAX + 110_000);
        }
        let answered: usize = messages.iter().map(|message| message.answers.len()).sum();
        assert_eq!(answered, 64);
    }

    #[test]
    fn sets_that_differ_in_a_score_or_an_origin_are_not_equal_and_recommendation_ids_do_not_matter()
    {
        let mut parts = parts();
        let mut indexes = Vec::new();
        for (score, origin) in [
            (0.5, Origin::Embedded),
            (0.4, Origin::Embedded),
            (0.5, Origin::Personalize),
            (0.5, Origin::Embedded),
        ] {
            let mut decided = decided(score, 1);
            decided.origin = origin;
            decided.recommendation_id = Some(format!("{}", indexes.len()));
            indexes.push(parts.index(decided).0);
        }
        assert_eq!(indexes, [0, 1, 2, 0]);
    }

    #[test]
    fn cached_sets_of_the_same_second_are_equal() {
        let mut parts = parts();
        let mut cached = |age_ms| {
            parts.index(Decided {
                freshness: Freshness::Cached,
                age: Duration::from_millis(age_ms),
                ..decided(0.5, 1)
            })
        };
        assert_eq!(cached(1_100).0, 0);
        assert_eq!(cached(1_900).0, 0);
        assert_eq!(cached(2_100).0, 1);
    }
}
