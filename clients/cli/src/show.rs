//! How event states and component sets look: as lines for people, as JSON for machines. Pure.

use serde_json::{Value, json};
use touchline_client::proto::{Component, ComponentSet, EventState, Freshness, Origin, Position};

use crate::output::{FAINT, NEW, STRONG, styled};

/// An event's state as one JSON object.
pub fn state_json(state: &EventState) -> Value {
    json!({
        "event_id": state.event_id,
        "version": state.version,
        "position": state.position.as_ref().map(position_json),
        "content_ids": state.content_ids,
        "attributes": state.attributes,
    })
}

/// A component set as one JSON object, in the words of the WebSocket's protocol 2.
pub fn set_json(set: &ComponentSet) -> Value {
    let age_ms = set
        .age
        .and_then(|age| std::time::Duration::try_from(age).ok())
        .map_or(0, |age| age.as_millis());
    json!({
        "set_id": set.set_id,
        "version": set.version,
        "position": set.position.as_ref().map(position_json),
        "origin": origin(set.origin()),
        "freshness": freshness(set.freshness()),
        "age_ms": u64::try_from(age_ms).unwrap_or(u64::MAX),
        "recommendation_id": set.recommendation_id,
        "components": set.components.iter().map(component_json).collect::<Vec<_>>(),
    })
}

fn position_json(position: &Position) -> Value {
    json!({ "epoch": position.epoch, "sequence": position.sequence })
}

fn component_json(component: &Component) -> Value {
    json!({
        "item_type": component.item_type,
        "item_id": component.item_id,
        "rank": component.rank,
        "score": component.score,
        "attributes": component.attributes,
    })
}

/// An event's state for a person: the event, then an attribute a line.
pub fn state_lines(state: &EventState) -> Vec<String> {
    let mut head = format!(
        "{}  {}",
        styled(STRONG, printable(&state.event_id)),
        styled(FAINT, format_args!("version {}", state.version))
    );
    if !state.content_ids.is_empty() {
        let contents: Vec<_> = state.content_ids.iter().map(|id| printable(id)).collect();
        head.push_str(&format!("  for {}", contents.join(", ")));
    }
    let width = longest(state.attributes.keys());
    let attributes = state
        .attributes
        .iter()
        .map(|(name, value)| format!("  {:<width$}  {}", printable(name), printable(value)));
    std::iter::once(head).chain(attributes).collect()
}

/// An event's state for a person, in one line.
pub fn state_line(state: &EventState) -> String {
    let attributes: Vec<_> = state
        .attributes
        .iter()
        .map(|(name, value)| format!("{}={}", printable(name), printable(value)))
        .collect();
    format!(
        "{}  {}",
        styled(STRONG, printable(&state.event_id)),
        attributes.join("  ")
    )
}

/// What is new in an event's state, for a person, in one line.
pub fn change_line(state: &EventState, before: &EventState) -> String {
    let changed = state
        .attributes
        .iter()
        .filter(|(name, value)| before.attributes.get(*name) != Some(value))
        .map(|(name, value)| format!("{}={}", printable(name), printable(value)));
    let gone = before
        .attributes
        .keys()
        .filter(|name| !state.attributes.contains_key(*name))
        .map(|name| format!("{} is gone", printable(name)));
    let mut parts: Vec<_> = changed.chain(gone).collect();
    if state.content_ids != before.content_ids {
        let contents: Vec<_> = state.content_ids.iter().map(|id| printable(id)).collect();
        parts.push(match contents.is_empty() {
            true => "for everybody".to_owned(),
            false => format!("for {}", contents.join(", ")),
        });
    }
    format!(
        "{}  {}",
        styled(STRONG, printable(&state.event_id)),
        parts.join("  ")
    )
}

/// What fills a slot, as far as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The slot.
    pub item_type: String,
    /// The item in it.
    pub item_id: String,
    /// What the item says of itself.
    pub label: String,
    /// Its score, where there is one.
    pub score: Option<String>,
}

impl From<&Component> for Slot {
    fn from(component: &Component) -> Self {
        let label = component.attributes.get("item_label");
        Self {
            item_type: component.item_type.clone(),
            item_id: component.item_id.clone(),
            label: label.cloned().unwrap_or_default(),
            score: (component.score > 0.0).then(|| format!("{:.3}", component.score)),
        }
    }
}

/// A set for a person, a slot a line; those that were not there in `before` are marked.
pub fn slot_lines(slots: &[Slot], before: &[Slot]) -> Vec<String> {
    if slots.is_empty() {
        return vec![styled(FAINT, "    nothing to show")];
    }
    let type_width = longest(slots.iter().map(|slot| &slot.item_type));
    let id_width = longest(slots.iter().map(|slot| &slot.item_id));
    let shown = |slot: &Slot| {
        before
            .iter()
            .any(|old| old.item_type == slot.item_type && old.item_id == slot.item_id)
    };
    slots
        .iter()
        .map(|slot| {
            let (mark, style) = match before.is_empty() || shown(slot) {
                true => (' ', anstyle::Style::new()),
                false => ('+', NEW),
            };
            let text = format!(
                "  {mark} {:<type_width$}  {:<id_width$}  {}",
                printable(&slot.item_type),
                printable(&slot.item_id),
                printable(&slot.label),
            );
            let score = slot
                .score
                .as_ref()
                .map_or_else(String::new, |score| format!("  {}", styled(FAINT, score)));
            format!("{}{score}", styled(style, text.trim_end()))
        })
        .collect()
}

/// Where a set comes from, for a person.
pub fn provenance(origin: &str, freshness: &str) -> String {
    styled(FAINT, format_args!("{origin}, {freshness}"))
}

/// The name of an origin, as in protocol 2.
pub fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Unspecified => "unspecified",
        Origin::Personalize => "personalize",
        Origin::Cohort => "cohort",
        Origin::Embedded => "embedded",
        Origin::Popular => "popular",
    }
}

/// The name of a freshness, as in protocol 2.
pub fn freshness(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Unspecified => "unspecified",
        Freshness::Live => "live",
        Freshness::Cached => "cached",
        Freshness::Stale => "stale",
    }
}

/// Text of unknown origin, without what would move a terminal's cursor or forge a line.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|character| match character.is_control() {
            true => char::REPLACEMENT_CHARACTER,
            false => character,
        })
        .collect()
}

/// The widest of the texts, in characters, but no wider than leaves room for the rest of the line.
fn longest<'a>(texts: impl Iterator<Item = &'a String>) -> usize {
    const COLUMN_MAX: usize = 32;
    texts
        .map(|text| text.chars().count())
        .max()
        .unwrap_or_default()
        .min(COLUMN_MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn slot(item_type: &str, item_id: &str) -> Slot {
        Slot {
            item_type: item_type.to_owned(),
            item_id: item_id.to_owned(),
            label: String::new(),
            score: None,
        }
    }

    #[test]
    fn what_is_new_in_a_set_is_marked_without_colour_too() {
        let before = [slot("PLAYER", "ITEM_ID_1"), slot("SOCIAL", "ITEM_ID_2")];
        let now = [slot("PLAYER", "ITEM_ID_1"), slot("SOCIAL", "ITEM_ID_3")];
        let lines = slot_lines(&now, &before);
        assert!(lines[0].contains("    PLAYER"), "{lines:?}");
        assert!(lines[1].contains("  + SOCIAL"), "{lines:?}");
    }

    #[test]
    fn a_first_set_is_not_all_news() {
        let lines = slot_lines(&[slot("PLAYER", "ITEM_ID_1")], &[]);
        assert!(!lines[0].contains('+'), "{lines:?}");
    }

    #[test]
    fn a_change_shows_what_changed_and_what_is_gone() {
        let state = |attributes: &[(&str, &str)]| EventState {
            event_id: "1".to_owned(),
            attributes: attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Default::default()
        };
        let before = state(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let line = change_line(&state(&[("a", "1"), ("b", "2")]), &before);
        let line = anstream::adapter::strip_str(&line).to_string();
        assert_eq!(line, "1  b=2  c is gone");
    }

    #[test]
    fn nothing_that_an_event_holds_can_move_the_terminals_cursor() {
        let state = EventState {
            event_id: "1\u{1b}[2J".to_owned(),
            attributes: BTreeMap::from([("a\n".to_owned(), "b\r".to_owned())]),
            ..Default::default()
        };
        let text = anstream::adapter::strip_str(&state_line(&state)).to_string();
        assert!(!text.chars().any(char::is_control), "{text:?}");
        let lines = state_lines(&state);
        assert_eq!(lines.len(), 2);
        assert!(!lines[1].chars().any(char::is_control), "{lines:?}");
    }
}
