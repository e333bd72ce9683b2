//! One question to the server for many consumers, asked again until each is answered, its time is over
//! or something newer comes. Does not know what the answers are for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tonic::Status;
use touchline_runtime::{backoff::Backoff, traces::Place};
use touchline_store::ids::ConsumerId;

use super::components::{Answers, Components, Shown, passes};
use crate::messages::EncodedSet;

/// A question that is being asked. `T` is whoever shall have a consumer's answer.
pub struct Question<'a, T> {
    components: &'a Components,
    shown: &'a Arc<Shown>,
    /// When trying ends.
    deadline: Instant,
    /// Cancelled when a newer state makes the answers pointless.
    superseded: &'a CancellationToken,
    /// Whom the server is asked for, in the order of the request; `None` once answered.
    open: Vec<(ConsumerId, Option<T>)>,
    answers: Option<Answers>,
    backoff: Backoff,
    is_once: bool,
    is_over: bool,
    /// Where in a trace it is asked.
    place: Place,
}

/// The answer for one consumer: the set and the recommendation id, or why there will be none.
pub type Answered<T> = (T, Result<(Arc<EncodedSet>, String), Status>);

impl<'a, T> Question<'a, T> {
    /// Nothing is asked before the answers are read.
    pub fn new(
        components: &'a Components,
        shown: &'a Arc<Shown>,
        deadline: Instant,
        superseded: &'a CancellationToken,
        batch: impl IntoIterator<Item = (ConsumerId, T)>,
    ) -> Self {
        let batch = batch.into_iter();
        Self {
            components,
            shown,
            deadline,
            superseded,
            open: batch
                .map(|(consumer, whose)| (consumer, Some(whose)))
                .collect(),
            answers: None,
            backoff: Backoff::new(Duration::from_millis(20), Duration::from_secs(1)),
            is_once: false,
            is_over: false,
            place: Place::default(),
        }
    }

    /// The same, at a place in a trace.
    pub fn at(self, place: &Place) -> Self {
        Self {
            place: place.clone(),
            ..self
        }
    }

    /// The same, asked once only: who has no answer then is left.
    pub fn once(self) -> Self {
        Self {
            is_once: true,
            ..self
        }
    }

    /// The next answers; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Vec<Answered<T>>> {
        loop {
            if self.is_over || self.superseded.is_cancelled() {
                return None;
            }
            let mut answers = match self.answers.take() {
                Some(answers) => answers,
                None => self.ask()?,
            };
            // Asking stops at once when something newer comes.
            let part = tokio::select! {
                part = answers.next() => part,
                () = self.superseded.cancelled() => return None,
            };
            match part {
                Ok(Some(part)) => {
                    self.answers = Some(answers);
                    let answered: Vec<_> = part
                        .into_iter()
                        .filter_map(|answer| self.answered(answer.index, answer.set))
                        .collect();
                    if !answered.is_empty() {
                        return Some(answered);
                    }
                }
                Ok(None) => self.again().await,
                Err(status) if passes(&status) => {
                    tracing::debug!(%status, "the server did not answer");
                    self.again().await;
                }
                Err(status) => {
                    tracing::error!(%status, "the server refuses a batch");
                    self.is_over = true;
                    let refused = |whose| (whose, Err(status.clone()));
                    return Some(self.left().map(refused).collect());
                }
            }
        }
    }

    /// Who has no answer: nobody, once all was said.
    pub fn left(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.open)
            .into_iter()
            .filter_map(|(_, whose)| whose)
    }

    /// `None`: nobody is left to be asked for.
    fn ask(&mut self) -> Option<Answers> {
        self.open.retain(|(_, whose)| whose.is_some());
        if self.open.is_empty() {
            return None;
        }
        let consumers: Vec<_> = self
            .open
            .iter()
            .map(|(consumer, _)| consumer.clone())
            .collect();
        let Self {
            components,
            shown,
            deadline,
            place,
            ..
        } = self;
        Some(components.ask(shown, &consumers, *deadline, place))
    }

    fn answered(
        &mut self,
        index: usize,
        set: Result<(Arc<EncodedSet>, String), Status>,
    ) -> Option<Answered<T>> {
        // One that may be answered yet is asked for again.
        if let Err(status) = &set
            && passes(status)
        {
            tracing::debug!(%status, "the server has no answer for a consumer yet");
            return None;
        }
        let (_, whose) = self.open.get_mut(index)?;
        Some((whose.take()?, set))
    }

    /// The server has said all it had to say: whoever is left is asked for again in a moment.
    async fn again(&mut self) {
        if self.is_once || self.open.iter().all(|(_, whose)| whose.is_none()) {
            self.is_over = true;
            return;
        }
        let pause = self.backoff.pause();
        if Instant::now() + pause >= self.deadline {
            self.is_over = true;
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.superseded.cancelled() => {}
        }
    }
}
