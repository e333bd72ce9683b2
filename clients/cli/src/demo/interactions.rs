//! Makes up a history: who tapped what in which moment of earlier matches. A random utility model
//! (taste, moment, popularity and a few personal favourites, then a draw), which is not the shape of
//! the ranker that learns from it.

use std::fmt::Write;

use touchline_store::item::Item;

use super::{Consumer, Taste};

const HEADER: &str = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,MATCH_EVENT,MATCH_TIMING,SCORE_DIFFERENCE,MATCH_TYPE,MATCH_VENUE\n";

const MATCHES: u64 = 24;
/// 2022-11-20, the first day of that World Cup, in seconds since 1970.
const FIRST_MATCH_SECONDS: u64 = 1_668_902_400;
const MATCH_EVERY_SECONDS: u64 = 86_400;
/// States of one match, and how long each lasts.
const STATES: u64 = 18;
const STATE_SECONDS: u64 = 400;
/// Of a thousand fans watching, how many tap something in one state.
const TAPS_PER_MILLE: u64 = 230;

const EVENTS: [(&str, u64); 9] = [
    ("THROW", 20),
    ("FREE-KICK", 20),
    ("GOAL", 14),
    ("YELLOW-CARD", 12),
    ("SUBSTITUTION", 8),
    ("PENALTY", 8),
    ("INJURY", 8),
    ("KICK-OFF", 5),
    ("INTERVAL", 5),
];
const TIMINGS: [&str; 9] = [
    "FIRST-HALF-1",
    "FIRST-HALF-2",
    "FIRST-HALF-3",
    "INTERVAL",
    "SECOND-HALF-1",
    "SECOND-HALF-2",
    "SECOND-HALF-3",
    "OVER-TIME",
    "POST_MATCH",
];
const VENUES: [&str; 4] = ["France", "Amsterdam", "Argentina", "Lusail"];
const TYPES: [&str; 3] = ["LEAGUE", "SEMI-FINAL", "FINAL"];

/// The whole history as CSV, oldest first.
pub(super) fn csv(items: &[Item], consumers: &[Consumer]) -> String {
    let mut random = SplitMix(2022);
    let favourites: Vec<[usize; 3]> = consumers
        .iter()
        .map(|_| [(); 3].map(|()| random.below(items.len() as u64) as usize))
        .collect();
    let mut csv = HEADER.to_owned();
    for game in 0..MATCHES {
        let venue = VENUES[random.below(VENUES.len() as u64) as usize];
        let kind = TYPES[random.below(TYPES.len() as u64) as usize];
        let mut difference = 0;
        for state in 0..STATES {
            let timing = TIMINGS[(state as usize * TIMINGS.len()) / STATES as usize];
            let event = if timing == "INTERVAL" {
                "INTERVAL"
            } else {
                random.event()
            };
            if event == "GOAL" {
                difference = if difference > 0 && random.below(2) == 0 {
                    difference - 1
                } else {
                    difference + 1
                };
            }
            let start = FIRST_MATCH_SECONDS + game * MATCH_EVERY_SECONDS + state * STATE_SECONDS;
            for (consumer, favourites) in consumers.iter().zip(&favourites) {
                if random.below(1_000) >= TAPS_PER_MILLE {
                    continue;
                }
                let item = draw(&mut random, items, |place, item| {
                    let favourite = if favourites.contains(&place) {
                        1.6
                    } else {
                        0.0
                    };
                    favourite
                        + popularity(item)
                        + liking(consumer.taste_kind, item)
                        + moment(event, item)
                });
                let time = start + random.below(STATE_SECONDS);
                let _ = writeln!(
                    csv,
                    "{},{},{time},tap,{event},{timing},{},{kind},{venue}",
                    consumer.consumer_id,
                    item.item_id,
                    difference.min(2),
                );
            }
        }
    }
    csv
}

/// Takes an item with a chance that grows with `e` to the power of its utility.
fn draw<'a>(
    random: &mut SplitMix,
    items: &'a [Item],
    utility: impl Fn(usize, &Item) -> f64,
) -> &'a Item {
    let weights: Vec<f64> = items
        .iter()
        .enumerate()
        .map(|(place, item)| utility(place, item).exp())
        .collect();
    let mut left = random.unit() * weights.iter().sum::<f64>();
    for (item, weight) in items.iter().zip(&weights) {
        left -= weight;
        if left <= 0.0 {
            return item;
        }
    }
    &items[items.len() - 1]
}

fn is(item: &Item, label_part: &str) -> bool {
    text(item, "item_label").contains(label_part)
}

fn text<'a>(item: &'a Item, name: &str) -> &'a str {
    item.attributes.get(name).map_or("", String::as_str)
}

fn popularity(item: &Item) -> f64 {
    let followers: f64 = text(item, "insta_follower_count").parse().unwrap_or(0.0);
    0.08 * (1.0 + followers / 1_000.0).ln()
}

fn liking(taste: Taste, item: &Item) -> f64 {
    let country = text(item, "country");
    let liked = match taste {
        Taste::Argentina => country == "Argentina",
        Taste::France => country == "France",
        Taste::Bets => is(item, "Bet slip") || is(item, "prediction"),
        Taste::Statistics => {
            is(item, "statistics")
                || is(item, "Line-ups")
                || is(item, "last attack")
                || is(item, "bracket")
        }
        Taste::Company => item.item_type.as_str() == "SOCIAL",
        Taste::Shopping => {
            is(item, "Shirts") || is(item, "Food") || is(item, "Tickets") || is(item, "Sponsor")
        }
    };
    if liked { 2.2 } else { 0.0 }
}

fn moment(event: &str, item: &Item) -> f64 {
    let fits = match event {
        "GOAL" => is(item, "clips") || is(item, "next goal") || text(item, "is_celeb") == "Y",
        "PENALTY" => {
            is(item, "prediction") || is(item, "next goal") || text(item, "fifa_pot_rate") >= "85"
        }
        "INTERVAL" => {
            is(item, "Food") || is(item, "Shirts") || is(item, "Trivia") || is(item, "statistics")
        }
        "KICK-OFF" => is(item, "Line-ups") || is(item, "Poll") || is(item, "final score"),
        "YELLOW-CARD" => is(item, "Referee") || is(item, "chat"),
        "SUBSTITUTION" => is(item, "Line-ups") || is(item, "Quiz"),
        "INJURY" => is(item, "Commentary") || is(item, "chat"),
        "FREE-KICK" => is(item, "last attack") || is(item, "prediction"),
        _ => false,
    };
    if fits { 1.4 } else { 0.0 }
}

/// Steele, Lea and Flood's SplitMix64: ten lines that give the same numbers on every platform and
/// with every release, which a library's default generator does not promise.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn event(&mut self) -> &'static str {
        let mut left = self.below(EVENTS.iter().map(|(_, weight)| weight).sum());
        for (event, weight) in EVENTS {
            if left < weight {
                return event;
            }
            left -= weight;
        }
        EVENTS[0].0
    }
}
