//! The embedded contextual ranker: to be written.

use std::{path::PathBuf, sync::RwLock};

use async_trait::async_trait;
use touchline_store::item::Item;

use super::{
    Interaction, Origin, Query, RankedItem, Ranking, RecommendError, Recommender, Recorded,
};

/// Files.
#[derive(Debug, Clone, Default)]
pub struct EmbeddedConfig {
    /// Interactions.
    pub interactions: Option<PathBuf>,
    /// Feedback.
    pub feedback: Option<PathBuf>,
}

/// Stub.
#[derive(Debug, Default)]
pub struct EmbeddedRecommender {
    items: RwLock<Vec<Item>>,
}

impl EmbeddedRecommender {
    /// Opens.
    pub fn open(_: EmbeddedConfig) -> anyhow::Result<Self> {
        Ok(Self::default())
    }

    /// Items.
    pub fn set_items(&self, items: &[Item]) {
        let mut items = items.to_vec();
        items.sort_by(|a, b| a.item_id.cmp(&b.item_id));
        *self
            .items
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = items;
    }
}

#[async_trait]
impl Recommender for EmbeddedRecommender {
    async fn rank(&self, queries: &[Query]) -> Vec<Result<Ranking, RecommendError>> {
        let items = self
            .items
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        queries
            .iter()
            .map(|query| {
                Ok(Ranking {
                    items: items
                        .iter()
                        .take(query.num_results)
                        .map(|item| RankedItem {
                            item_id: item.item_id.clone(),
                            score: Some(0.5),
                        })
                        .collect(),
                    recommendation_id: Some("stub".to_owned()),
                    origin: Origin::Embedded,
                })
            })
            .collect()
    }

    async fn record(&self, interactions: &[Interaction]) -> Result<Recorded, RecommendError> {
        Ok(Recorded {
            recorded: interactions.len(),
            duplicates: 0,
        })
    }
}
