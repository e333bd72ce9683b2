//! What came in: one count for each different call.
//!
//! It remembers no order and no outcome, and past a number of different calls only their total.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Different calls that are told apart; more are counted in the total alone.
const DIFFERENT_CALLS_MAX: usize = 100_000;

/// One `GetRecommendations` call, as it was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// `campaignArn`.
    pub campaign_arn: String,
    /// `userId`.
    pub consumer_id: String,
    /// `numResults`; the service's default where none was given.
    pub num_results: usize,
    /// `context`.
    pub context: BTreeMap<String, String>,
}

impl Call {
    /// The call as JSON with the service's names.
    pub(super) fn to_json(&self, count: u64) -> Value {
        json!({
            "campaignArn": self.campaign_arn,
            "userId": self.consumer_id,
            "numResults": self.num_results,
            "context": self.context,
            "count": count,
        })
    }
}

/// The counts.
#[derive(Debug, Default)]
pub(super) struct Calls {
    counts: BTreeMap<Call, u64>,
    total: u64,
    under_way: u64,
    at_once_max: u64,
}

impl Calls {
    /// Counts a call as under way and returns its number, from 1.
    pub(super) fn entered(&mut self, call: &Call) -> u64 {
        self.total += 1;
        self.under_way += 1;
        self.at_once_max = self.at_once_max.max(self.under_way);
        if let Some(count) = self.counts.get_mut(call) {
            *count += 1;
        } else if self.counts.len() < DIFFERENT_CALLS_MAX {
            self.counts.insert(call.clone(), 1);
        }
        self.total
    }

    /// A call is no longer under way.
    pub(super) fn left(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    pub(super) fn counts(&self) -> Vec<(Call, u64)> {
        self.counts
            .iter()
            .map(|(call, count)| (call.clone(), *count))
            .collect()
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn total_for(&self, consumer_id: &str) -> u64 {
        self.counts
            .iter()
            .filter(|(call, _)| call.consumer_id == consumer_id)
            .map(|(_, count)| count)
            .sum()
    }

    pub(super) fn at_once_max(&self) -> u64 {
        self.at_once_max
    }

    /// Starts anew; what is under way stays so.
    pub(super) fn forget(&mut self) {
        self.counts.clear();
        self.total = 0;
        self.at_once_max = self.under_way;
    }
}
