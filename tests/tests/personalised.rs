//! Personalised for real: what a consumer is shown follows from that consumer's own interactions,
//! and is the same wherever it is asked for.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;
use touchline_proto::v1::ComponentSet;
use touchline_tests::{calls, fan::Fan, rows, stack};

/// Two consumers of opposite tastes, each with enough taps to show; `diego` and `camille` stand for
/// the ids given.
fn interactions(diego: &str, camille: &str) -> String {
    let mut file = stack::NO_INTERACTIONS.to_owned();
    for tap in 0..20 {
        let time = 1_700_000_000 + tap;
        for (consumer, items) in [
            (diego, ["ITEM_ID_1", "ITEM_ID_21"]),
            (camille, ["ITEM_ID_2", "ITEM_ID_22"]),
        ] {
            for item in items {
                file += &format!("{consumer},{item},{time},tap,GOAL\n");
            }
        }
    }
    file
}

/// The sets of diego and camille as `item type → item`, with these interactions in the file.
async fn sets(interactions: &str) -> Result<[BTreeMap<String, String>; 2]> {
    let stack = stack::start(Some(interactions)).await?;
    rows::put_event(&stack.dynamodb, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    let mut sets = [BTreeMap::new(), BTreeMap::new()];
    for (set, consumer) in sets.iter_mut().zip(["diego", "camille"]) {
        *set = shown(&calls::components(&stack.client, consumer, "1").await?);
    }
    stack.stop().await?;
    Ok(sets)
}

fn shown(set: &ComponentSet) -> BTreeMap<String, String> {
    set.components
        .iter()
        .map(|component| (component.item_type.clone(), component.item_id.clone()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapping_two_consumers_interactions_swaps_their_sets() -> Result<()> {
    let [diego, camille] = sets(&interactions("diego", "camille")).await?;
    assert_ne!(diego, camille);
    assert_eq!(diego["PLAYER"], "ITEM_ID_1");
    assert_eq!(camille["PLAYER"], "ITEM_ID_2");
    let swapped = sets(&interactions("camille", "diego")).await?;
    assert_eq!(swapped, [camille, diego]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_interactions_everybody_is_shown_the_same() -> Result<()> {
    let [diego, camille] = sets(stack::NO_INTERACTIONS).await?;
    assert_eq!(diego, camille);
    assert!(!diego.is_empty());
    Ok(())
}

/// The components of a protocol 2 message as `item type → item`.
fn shown_by_message(message: &Value) -> Result<BTreeMap<String, String>> {
    let components = message["components"].as_array().context("no components")?;
    components
        .iter()
        .map(|component| {
            let text = |name: &str| component[name].as_str().map(str::to_owned);
            Some((text("item_type")?, text("item_id")?))
        })
        .collect::<Option<_>>()
        .context("a component without type or id")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_consumer_is_shown_the_same_at_every_door() -> Result<()> {
    let stack = stack::start(Some(&interactions("diego", "camille"))).await?;
    let mut fans = Vec::new();
    for consumer in ["diego", "camille"] {
        let old = Fan::protocol_1(&stack.gateway, consumer, "final").await?;
        let new = Fan::protocol_2(&stack.gateway, consumer, "final").await?;
        fans.push((consumer, old, new));
    }
    rows::put_event(&stack.dynamodb, "1", "GOAL", "FIRST-HALF-1", "1").await?;

    let mut distinct = std::collections::BTreeSet::new();
    for (consumer, old, new) in &mut fans {
        let asked = calls::components(&stack.client, consumer, "1").await?;
        let mut watch = stack.client.watch("1", Some(consumer));
        let (_, watched) = calls::next_state(&mut watch).await?;
        let watched = watched.context("no set beside the state")?;
        let message = new
            .receive_until(|message| message["type"] == "components")
            .await?;
        let old_message: BTreeMap<String, String> = serde_json::from_value(old.receive().await?)?;

        let expected = shown(&asked);
        assert_eq!(shown(&watched), expected, "WatchEvent for {consumer}");
        assert_eq!(
            shown_by_message(&message)?,
            expected,
            "protocol 2 for {consumer}"
        );
        assert_eq!(old_message, expected, "protocol 1 for {consumer}");
        assert_eq!(watched.set_id, asked.set_id);
        assert_eq!(message["set_id"], *asked.set_id);
        assert_eq!(message["version"], *asked.version);
        distinct.insert(asked.set_id);
    }
    assert_eq!(distinct.len(), 2, "the two consumers are shown the same");
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_changes_what_comes_next() -> Result<()> {
    let stack = stack::start(Some(&interactions("diego", "camille"))).await?;
    rows::put_event(&stack.dynamodb, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    let before = shown(&calls::components(&stack.client, "diego", "1").await?);
    let wanted = "ITEM_ID_7";
    assert_ne!(before["PLAYER"], wanted);
    for _ in 0..20 {
        calls::tap(&stack.client, "diego", wanted, "1").await?;
    }
    let after = shown(&calls::components(&stack.client, "diego", "1").await?);
    assert_eq!(after["PLAYER"], wanted);
    let other = shown(&calls::components(&stack.client, "camille", "1").await?);
    assert_ne!(other["PLAYER"], wanted, "camille is shown diego's taste");
    stack.stop().await
}
