//! The item catalog: the whole table, held in memory and refreshed in the background. Readers never
//! wait for the store, and a refresh that fails leaves the last good copy where it is.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use prost::bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use touchline_store::{ids::ItemId, item::Item, tables::Store};

use crate::{counters::Counters, error::Error};

/// One read of the whole table takes at most this long.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// Refreshes that somebody asks for are at least this far apart.
const EARLY_REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// An item as sets share it.
#[derive(Debug)]
pub struct CatalogItem {
    item: Item,
    digest: [u8; 32],
    encoded: OnceLock<Bytes>,
}

impl CatalogItem {
    /// Hash of everything that a fan can see of the item.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// What a message says of the item, encoded once for all sets: by the first who asks.
    pub(crate) fn encoded(&self, encode: impl FnOnce(&Item) -> Bytes) -> &Bytes {
        self.encoded.get_or_init(|| encode(&self.item))
    }
}

impl Deref for CatalogItem {
    type Target = Item;

    fn deref(&self) -> &Item {
        &self.item
    }
}

/// One state of the item table.
#[derive(Debug, Default)]
pub struct Catalog {
    items: HashMap<ItemId, Arc<CatalogItem>>,
    /// Raised by each change; 0 for one that was made by hand.
    generation: u64,
}

impl Catalog {
    /// A catalog of these items.
    pub fn new(items: Vec<Item>) -> Self {
        let items = items
            .into_iter()
            .map(|item| {
                let digest = digest(&item);
                let item_id = item.item_id.clone();
                let item = CatalogItem {
                    item,
                    digest,
                    encoded: OnceLock::new(),
                };
                (item_id, Arc::new(item))
            })
            .collect();
        Self {
            items,
            generation: 0,
        }
    }

    /// The item of this id.
    pub fn get(&self, item_id: &ItemId) -> Option<&Arc<CatalogItem>> {
        self.items.get(item_id)
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Which state of the table this is: it rises with each change that a refresh finds.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn shows_the_same_as(&self, other: &Self) -> bool {
        self.items.len() == other.items.len()
            && self.items.iter().all(|(item_id, item)| {
                other
                    .items
                    .get(item_id)
                    .is_some_and(|other| other.digest == item.digest)
            })
    }
}

fn digest(item: &Item) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    part(item.item_type.as_str());
    part(item.item_id.as_str());
    for (name, value) in &item.attributes {
        part(name);
        part(value);
    }
    hash.finalize().into()
}

/// Told of the items whenever they changed, before anybody is served from them.
pub type OnChange = Box<dyn Fn(&[Item]) + Send + Sync>;

/// The newest catalog that could be read.
pub struct CatalogCache {
    store: Store,
    current: RwLock<Option<Arc<Catalog>>>,
    on_change: OnChange,
    counters: Arc<Counters>,
    /// When the last refresh began; held while one runs, so that there is one at a time.
    refreshing: tokio::sync::Mutex<Option<Instant>>,
    wanted: Notify,
    /// The last failure, so that one that lasts is logged once.
    failing: Mutex<Option<String>>,
}

impl std::fmt::Debug for CatalogCache {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CatalogCache")
            .finish_non_exhaustive()
    }
}

impl CatalogCache {
    /// An empty cache; nothing is read yet.
    pub fn new(store: Store, counters: Arc<Counters>, on_change: OnChange) -> Self {
        Self {
            store,
            current: RwLock::default(),
            on_change,
            counters,
            refreshing: tokio::sync::Mutex::default(),
            wanted: Notify::new(),
            failing: Mutex::default(),
        }
    }

    /// The newest catalog; [`Error::NotReady`] before the first was read.
    pub fn current(&self) -> Result<Arc<Catalog>, Error> {
        self.peek().ok_or(Error::NotReady)
    }

    /// Asks for an early refresh: somebody met an item that the catalog does not know.
    pub fn look_again(&self) {
        self.wanted.notify_one();
    }

    /// The newest catalog, read again if the one at hand is older than a moment: for a caller who
    /// would be refused because of what it does not hold.
    pub async fn recent(&self) -> Result<Arc<Catalog>, Error> {
        // A failure is counted and logged by the refresh; the last good copy still answers.
        let _ = self.refresh_unless_younger_than(EARLY_REFRESH_PAUSE).await;
        self.current()
    }

    /// Reads the table and, if anything in it changed, serves from it from now on.
    pub async fn refresh(&self) -> Result<(), Error> {
        self.refresh_unless_younger_than(Duration::ZERO).await
    }

    async fn refresh_unless_younger_than(&self, age: Duration) -> Result<(), Error> {
        let mut began = self.refreshing.lock().await;
        if began.is_some_and(|began| began.elapsed() < age) {
            return Ok(());
        }
        *began = Some(Instant::now());
        self.counters.catalog_refreshes.add(1);
        let read = match timeout(READ_TIMEOUT, self.store.items()).await {
            Ok(read) => read.map_err(Error::from),
            Err(_) => Err(Error::store_silent()),
        };
        let items = read.inspect_err(|error| self.failed(error))?;
        self.counters.catalog_age.begin();
        if self.failing().take().is_some() {
            tracing::info!("the catalog can be read again");
        }
        self.replace(items.items, items.skipped);
        Ok(())
    }

    fn replace(&self, items: Vec<Item>, skipped: usize) {
        let old = self.peek();
        let mut new = Catalog::new(items);
        if old.as_ref().is_some_and(|old| old.shows_the_same_as(&new)) {
            return;
        }
        new.generation = old.map_or(0, |old| old.generation) + 1;
        // Neither is ever near the end of a signed number.
        self.counters.catalog_items.set(new.len() as i64);
        let generation = new.generation as i64;
        self.counters.catalog_generation.set(generation);
        let items: Vec<Item> = new.items.values().map(|item| item.item.clone()).collect();
        (self.on_change)(&items);
        tracing::info!(
            items = new.len(),
            skipped,
            generation = new.generation,
            "the catalog changed"
        );
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(new));
    }

    fn failed(&self, error: &Error) {
        self.counters.catalog_refreshes_failed.add(1);
        let text = error.to_string();
        let mut failing = self.failing();
        if failing.as_deref() != Some(&text) {
            let source = std::error::Error::source(error);
            tracing::warn!(error = text, source, "the catalog cannot be read");
            *failing = Some(text);
        }
    }

    fn failing(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peek(&self) -> Option<Arc<Catalog>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// Refreshes every `period`, give or take a fifth so that replicas spread, and early when asked
    /// to; until shutdown.
    pub async fn keep_fresh(&self, period: Duration, shutdown: CancellationToken) {
        let refreshing = async {
            loop {
                let pause = period.mul_f64(rand::random_range(0.8..=1.2));
                tokio::select! {
                    () = sleep(pause) => {}
                    () = self.wanted.notified() => {}
                }
                // Counted and logged where it failed; the next round tries again.
                let _ = self.refresh_unless_younger_than(EARLY_REFRESH_PAUSE).await;
            }
        };
        shutdown.run_until_cancelled(refreshing).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use touchline_store::ids::ItemType;

    use super::*;

    fn item(attributes: &[(&str, &str)]) -> Item {
        Item {
            item_id: ItemId::new("bet").unwrap(),
            item_type: ItemType::new("MONETIZE").unwrap(),
            attributes: attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn names_and_values_never_run_together_in_a_digest() {
        assert_ne!(digest(&item(&[("ab", "c")])), digest(&item(&[("a", "bc")])));
        assert_eq!(digest(&item(&[("a", "b")])), digest(&item(&[("a", "b")])));
    }

    #[test]
    fn a_catalog_shows_the_same_only_if_every_attribute_does() {
        let catalog = |items: Vec<Item>| Catalog::new(items);
        let one = catalog(vec![item(&[("item_label", "Bet")])]);
        assert!(one.shows_the_same_as(&catalog(vec![item(&[("item_label", "Bet")])])));
        assert!(!one.shows_the_same_as(&catalog(vec![item(&[("item_label", "Odds")])])));
        assert!(!one.shows_the_same_as(&catalog(vec![])));
        assert!(!catalog(vec![]).shows_the_same_as(&one));
    }
}
