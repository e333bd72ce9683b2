//! Moderation policies over real calls: each rule as its callers see it, the same for the same state
//! however it is asked, and a file that changes.

use std::path::Path;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use touchline_proto::v1::{
    BatchGetComponentsRequest, ComponentSet, EventState, GetComponentsRequest, WatchEventRequest,
    consumer_answer::Answer,
};
use touchline_server::{ServerArgs, start};

use crate::{
    harness::{Server, Tables, asking, by_context, by_event, event, soon, until},
    standin::Standin,
};

const RANKED: &[&str] = &["c2", "a1", "c1", "a2", "b1", "b2"];

/// A server on policies and users that a test writes.
struct Ruled {
    server: Server,
    standin: Standin,
    folder: TempDir,
}

impl Ruled {
    async fn start(policies: &str, users: &str) -> Self {
        let standin = Standin::with_items(RANKED).await;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let server = Server::with(ServerArgs {
            policies: path("policies.toml", policies),
            users: path("users.csv", users),
            ..asking(&standin)
        })
        .await;
        Self {
            server,
            standin,
            folder,
        }
    }

    /// Puts another file in the place of the policies, as an editor or a mounted ConfigMap does.
    fn replace(&self, policies: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, policies).unwrap();
        std::fs::rename(&new, self.folder.path().join("policies.toml")).unwrap();
    }

    async fn get(&self, request: GetComponentsRequest) -> ComponentSet {
        let answer = self.server.components().get_components(request).await;
        answer.unwrap().into_inner().component_set.unwrap()
    }

    async fn batch(&self, state: EventState, consumer_id: &str) -> ComponentSet {
        let request = BatchGetComponentsRequest {
            state: Some(state),
            consumer_ids: vec![consumer_id.to_owned()],
            ..BatchGetComponentsRequest::default()
        };
        let answer = self.server.components().batch_get_components(request).await;
        let mut parts = answer.unwrap().into_inner();
        let part = soon(parts.message()).await.unwrap().unwrap();
        let answer = part.answers[0].answer.clone().unwrap();
        assert_eq!(answer, Answer::ComponentSetIndex(0));
        part.component_sets[0].clone()
    }

    async fn watch(&self, event_id: &str, consumer_id: &str) -> ComponentSet {
        let request = WatchEventRequest {
            event_id: event_id.to_owned(),
            consumer_id: consumer_id.to_owned(),
            set_id: String::new(),
        };
        let answer = self.server.components().watch_event(request).await;
        let mut states = answer.unwrap().into_inner();
        let first = soon(states.message()).await.unwrap().unwrap();
        first.component_set.unwrap()
    }

    async fn put(&self, match_event: &str) -> EventState {
        let state = event("1", &[("match_event", match_event)]);
        self.server.put(state).await
    }

    async fn stop(self) {
        self.server.stop().await;
    }
}

fn items(set: &ComponentSet) -> Vec<&str> {
    let components = set.components.iter();
    components
        .map(|component| component.item_id.as_str())
        .collect()
}

#[tokio::test]
async fn a_bet_slip_never_reaches_a_minor_an_unknown_or_another_country_whoever_asks() {
    let ruled = Ruled::start(
        "[items.c2]\nmin_age = 18\ncountries = [\"GB\"]\n",
        "USER_ID,AGE,COUNTRY\nadult,18,GB\nminor,17,GB\nageless,,GB\nabroad,40,US\nnowhere,40,\n",
    )
    .await;
    let state = ruled.put("GOAL").await;
    for consumer in ["adult", "minor", "ageless", "abroad", "nowhere", "stranger"] {
        let wanted = if consumer == "adult" { "c2" } else { "c1" };
        for set in [
            ruled.get(by_event(consumer, "1")).await,
            ruled
                .get(by_context(consumer, &[("MATCH_EVENT", "GOAL")]))
                .await,
            ruled.batch(state.clone(), consumer).await,
            ruled.watch("1", consumer).await,
        ] {
            let items = items(&set);
            assert_eq!(items.contains(&"c2"), consumer == "adult", "{consumer}");
            assert!(items.contains(&wanted), "the next best takes the slot");
        }
    }
    let dropped = &ruled.server.running.counters.dropped;
    assert_eq!((dropped.age.get(), dropped.country.get()), (12, 8));
    ruled.stop().await;
}

#[tokio::test]
async fn what_is_pinned_stands_first_what_is_blocked_nowhere_and_a_type_fills_its_slots() {
    let policies = "blocked = [\"a1\", \"b1\"]\npinned = [\"b1\", \"b2\"]\n\
                    [types.MONETIZE]\nslots = 2\n[types.PLAYER]\nslots = 2\n";
    let ruled = Ruled::start(policies, "USER_ID\n").await;
    let set = ruled.get(by_context("fan", &[])).await;
    let shown: Vec<_> = set
        .components
        .iter()
        .map(|component| (component.item_id.as_str(), component.rank))
        .collect();
    assert_eq!(shown, [("b2", 6), ("c2", 1), ("c1", 3), ("a2", 4)]);
    assert_eq!(ruled.server.running.counters.dropped.blocked.get(), 2);
    ruled.stop().await;
}

#[tokio::test]
async fn a_cap_counts_states_and_a_state_shows_the_same_however_often_and_by_whatever_it_is_asked()
{
    let ruled = Ruled::start("[items.c2]\ncap = 2\n", "USER_ID\n").await;
    let mut shown = Vec::new();
    let mut states = Vec::new();
    for match_event in ["GOAL", "THROW", "PENALTY"] {
        let state = ruled.put(match_event).await;
        let set = ruled.batch(state.clone(), "fan").await;
        for again in [
            ruled.get(by_event("fan", "1")).await,
            ruled.watch("1", "fan").await,
            ruled.batch(state.clone(), "fan").await,
        ] {
            assert_eq!(again.set_id, set.set_id);
        }
        shown.push(items(&set)[0].to_owned());
        states.push((state, set.set_id));
    }
    assert_eq!(shown, ["c2", "c2", "a1"]);
    for (state, set_id) in states {
        let late = ruled.batch(state, "fan").await;
        assert_eq!(late.set_id, set_id, "a state that is asked for late");
    }
    // Another consumer and another event have counts of their own; without an event none apply.
    assert_eq!(items(&ruled.get(by_event("other", "1")).await)[0], "c2");
    ruled.server.put(event("2", &[])).await;
    assert_eq!(items(&ruled.get(by_event("fan", "2")).await)[0], "c2");
    assert_eq!(items(&ruled.get(by_context("fan", &[])).await)[0], "c2");
    ruled.stop().await;
}

#[tokio::test]
async fn an_item_is_shown_in_its_situations_and_times_only() {
    let policies = "[items.c2]\nonly_when.match_event = [\"GOAL\"]\n\
                    [[items.a1.schedule]]\nuntil = 2022-12-18T22:00:00+03:00\n";
    let ruled = Ruled::start(policies, "USER_ID\n").await;
    for (context, wanted) in [
        (&[("MATCH_EVENT", "GOAL")][..], ["c2", "a2", "b1"]),
        (&[("MATCH_EVENT", "THROW")], ["c1", "a2", "b1"]),
        (&[], ["c1", "a2", "b1"]),
    ] {
        assert_eq!(items(&ruled.get(by_context("fan", context)).await), wanted);
    }
    assert_eq!(ruled.server.running.counters.dropped.schedule.get(), 5);
    ruled.stop().await;
}

#[tokio::test]
async fn a_changed_file_takes_effect_without_a_question_and_a_bad_one_changes_nothing() {
    let ruled = Ruled::start("# nothing yet\n", "USER_ID\n").await;
    ruled.put("GOAL").await;
    let before = ruled.get(by_event("fan", "1")).await;
    assert_eq!(items(&before), ["c2", "a1", "b1"]);

    ruled.replace("blocked = [\"c2\"]\n");
    let counters = &ruled.server.running.counters;
    until(|| async { counters.policies_reloads.get() == 1 }).await;
    let after = ruled.get(by_event("fan", "1")).await;
    assert_eq!(items(&after), ["a1", "c1", "b1"]);
    assert_ne!(after.set_id, before.set_id);
    assert_eq!(after.version, before.version, "the event did not change");

    for (bad, failures) in [
        ("blocked = [\"c2\"", 1),
        ("[types.PLAYER]\nslots = -1\n", 2),
    ] {
        ruled.replace(bad);
        until(|| async { counters.policies_reloads_failed.get() == failures }).await;
        let still = ruled.get(by_event("fan", "1")).await;
        assert_eq!(still.set_id, after.set_id);
    }
    std::fs::remove_file(ruled.folder.path().join("policies.toml")).unwrap();
    until(|| async { counters.policies_reloads_failed.get() == 3 }).await;
    assert_eq!(ruled.get(by_event("fan", "1")).await.set_id, after.set_id);

    ruled.replace("# nothing again\n");
    until(|| async { counters.policies_reloads.get() == 2 }).await;
    assert_eq!(ruled.get(by_event("fan", "1")).await.set_id, before.set_id);
    assert_eq!(ruled.standin.questions(), 1, "only moderation runs again");
    ruled.stop().await;
}

#[tokio::test]
async fn a_bad_file_refuses_the_start_and_says_where_it_is_wrong() {
    let tables = Tables::start().await;
    let folder = tempfile::tempdir().unwrap();
    let refusal = async |policies: &str, users: &str| {
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        };
        let args = ServerArgs {
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            policies: write("policies.toml", policies),
            users: write("users.csv", users),
            ..ServerArgs::default()
        };
        let started = start(args, tables.store.clone(), CancellationToken::new()).await;
        format!("{:#}", started.unwrap_err())
    };
    let named = |name: &str| Path::display(&folder.path().join(name)).to_string();
    let error = refusal("[types.A]\nslots = 99\n", "USER_ID\n").await;
    let file = named("policies.toml");
    assert_eq!(
        error,
        format!("--policies: {file}: types.A.slots = 99: 0 to 50 is accepted")
    );
    let error = refusal("\n\npined = []\n", "USER_ID\n").await;
    assert!(
        error.contains("line 3") && error.contains("`pinned`"),
        "{error}"
    );
    let error = refusal("# nothing\n", "USER_ID,AGE\na,old\n").await;
    assert!(
        error.contains("users.csv: line 2, column AGE: whole years"),
        "{error}"
    );
    tables.embedded.stop().await;
}

#[tokio::test]
async fn explain_tells_what_is_pinned_and_why_the_others_are_not_shown() {
    let ruled = Ruled::start(
        "pinned = [\"b2\", \"gone\"]\nblocked = [\"a1\"]\n[items.c2]\nmin_age = 18\n",
        "USER_ID,AGE\nminor,17\n",
    )
    .await;
    let request = GetComponentsRequest {
        explain: true,
        ..by_context("minor", &[])
    };
    let answer = ruled.server.components().get_components(request).await;
    let explanation = answer.unwrap().into_inner().explanation.unwrap();
    let items = explanation.ranking.iter();
    let said: Vec<_> = items
        .map(|item| format!("{} #{} {}", item.item_id, item.rank, item.dropped_because))
        .collect();
    assert_eq!(
        said,
        [
            "gone #0 the catalog does not know it, or its row has no item_type",
            "c2 #1 the consumer is younger than policies ask for, or of unknown age",
            "a1 #2 policies block it",
            "c1 #3 ",
            "a2 #4 ",
            "b1 #5 the slots of its type are taken by items that rank higher or are pinned",
            "b2 #6 ",
        ]
    );
    ruled.stop().await;
}
