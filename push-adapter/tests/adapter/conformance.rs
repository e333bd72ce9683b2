//! tests/conformance/messages.json over a socket of the gateway. tests/real/edge runs the same table
//! through MiniStack's API Gateway and the compiled Lambda functions.

use std::{collections::HashMap, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use tokio_tungstenite::tungstenite::Message;
use touchline_auth::issue::{SigningKey, claims};

use crate::{
    auth::{Issuer, connect},
    support::{Fan, World, eventually},
};

const TABLE: &str = include_str!("../../../tests/conformance/messages.json");
const SESSIONS: &str = "rt_personalize_user_session_store";

#[tokio::test]
async fn every_case_without_tokens_holds_at_the_gateway() {
    let world = World::start().await;
    let front = Front::of(&world, HashMap::new()).await;
    front.runs(|case| case.get("tokens").is_none()).await;
}

#[tokio::test]
async fn every_case_with_tokens_holds_at_the_gateway() {
    let issuer = Issuer::new();
    let world = issuer.world().await;
    let table: Value = serde_json::from_str(TABLE).unwrap();
    let tokens = table["tokens"].as_object().unwrap().iter();
    let tokens = tokens.map(|(name, of)| (name.clone(), token(&issuer, of)));
    let front = Front::of(&world, tokens.collect()).await;
    front.runs(|case| case.get("tokens").is_some()).await;
}

fn token(issuer: &Issuer, of: &Value) -> String {
    let consumer = of["consumer_id"].as_str();
    let mut claims = claims(consumer.unwrap_or_default(), Duration::ZERO, "");
    let now = claims["exp"].as_i64().unwrap();
    claims["exp"] = (now + of["seconds"].as_i64().unwrap()).into();
    if consumer.is_none() {
        claims.as_object_mut().unwrap().shift_remove("sub");
    }
    match of.get("foreign") {
        Some(_) => SigningKey::eddsa("key").sign(&claims),
        None => issuer.key.sign(&claims),
    }
}

/// A gateway that cases are run at.
struct Front<'a> {
    world: &'a World,
    dynamodb: aws_sdk_dynamodb::Client,
    tokens: HashMap<String, String>,
}

impl<'a> Front<'a> {
    async fn of(world: &'a World, tokens: HashMap<String, String>) -> Self {
        let endpoint = format!("http://{}", world.embedded.address());
        let timeout = crate::support::DEADLINE;
        let config = touchline_store::aws::sdk_config(None, Some(&endpoint), timeout).await;
        Self {
            world,
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
            tokens,
        }
    }

    async fn runs(&self, wanted: impl Fn(&Value) -> bool) {
        let table: Value = serde_json::from_str(TABLE).unwrap();
        let cases = table["cases"].as_array().unwrap();
        let mut ran = 0;
        for case in cases.iter().filter(|case| wanted(case)) {
            let words = match case.get("for_each") {
                Some(words) => words.as_array().unwrap().clone(),
                None => vec![json!("WORD")],
            };
            for word in words {
                let text = case.to_string().replace("WORD", word.as_str().unwrap());
                Box::pin(self.case(&serde_json::from_str(&text).unwrap())).await;
                ran += 1;
            }
        }
        assert!(ran > 6, "{ran} cases are not the table");
    }

    async fn case(&self, case: &Value) {
        let what = case["case"].as_str().unwrap();
        let part = |name: &str| self.filled(&case["connect"][name], "");
        let query = part("query")
            .as_str()
            .map(|token| format!("?token={token}"));
        let protocols = part("protocol");
        let protocols = protocols
            .as_str()
            .map(|token| format!("touchline, touchline.bearer.{token}"));
        let address = self.world.adapter.fans();
        let (query, protocols) = (query.unwrap_or_default(), protocols.unwrap_or_default());
        let connected = connect(address, &query, &protocols).await;
        if let Some(refused) = case.get("refused") {
            let answer = connected.err().unwrap_or_else(|| panic!("{what}: let in"));
            assert_eq!(*refused, answer.status().as_u16(), "{what}");
            assert_eq!(self.row().await, None, "{what}");
            return;
        }
        let (mut fan, _) = connected.unwrap_or_else(|answer| panic!("{what}: {answer:?}"));
        eventually(|| async { self.row().await.is_some() }).await;
        let connection = self.row().await.unwrap()["session_id"]["S"].clone();
        let mut open = Some(&mut fan);
        for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let step = self.filled(step, connection.as_str().unwrap());
            let at = format!("{what}, step {index}");
            open = self.step(&step, open, &connection, &at).await;
        }
        if let Some(fan) = open {
            assert_eq!(
                fan.hear_what_waits().await,
                [] as [Value; 0],
                "{what}: nothing else comes"
            );
        }
        drop(fan);
        eventually(|| async { self.row().await.is_none() }).await;
    }

    /// Takes a step; gives the fan back if it is still connected.
    async fn step<'f>(
        &self,
        step: &Value,
        mut fan: Option<&'f mut Fan>,
        connection: &Value,
        at: &str,
    ) -> Option<&'f mut Fan> {
        if step.get("remove_row").is_some() {
            let key = AttributeValue::S(connection.as_str().unwrap().to_owned());
            let removal = self.dynamodb.delete_item().table_name(SESSIONS);
            removal.key("session_id", key).send().await.unwrap();
        }
        if let Some(fan) = &mut fan {
            match (step.get("send"), step.get("binary")) {
                (Some(Value::String(text)), _) => fan.send(text.as_str().into()).await,
                (Some(message), _) => fan.say(message).await,
                (None, Some(bytes)) => {
                    let bytes = STANDARD.decode(bytes.as_str().unwrap()).unwrap();
                    fan.send(Message::binary(bytes)).await;
                }
                (None, None) => {}
            }
            for wanted in step["receive"].as_array().unwrap_or(&vec![]) {
                let heard = fan.hear().await;
                assert!(
                    is_like(wanted, &heard),
                    "{at}: {heard} in place of {wanted}"
                );
            }
        }
        if let Some(code) = step.get("closed") {
            assert_eq!(*code, fan.take().unwrap().close_code().await, "{at}");
        }
        if step.get("leave").is_some() {
            fan.take().unwrap().socket.close(None).await.unwrap();
        }
        if let Some(wanted) = step.get("row") {
            // What was answered is stored; what was not may still be on its way.
            eventually(|| async {
                let row = self.row().await;
                let row = row.as_ref();
                match wanted {
                    Value::Null => row.is_none(),
                    wanted => row.is_some_and(|row| is_like_in(wanted, row)),
                }
            })
            .await;
        }
        fan
    }

    /// The session's row as DynamoDB has it. A case is alone in the table.
    async fn row(&self) -> Option<Value> {
        let scanned = self
            .dynamodb
            .scan()
            .table_name(SESSIONS)
            .consistent_read(true);
        let rows = scanned.send().await.unwrap().items.unwrap_or_default();
        assert!(rows.len() < 2, "{rows:?}");
        let row = rows.into_iter().next()?.into_iter().map(|(name, value)| {
            let value = match value {
                AttributeValue::S(text) => json!({"S": text}),
                AttributeValue::N(number) => json!({"N": number}),
                other => panic!("{name} is {other:?}"),
            };
            (name, value)
        });
        Some(row.collect::<Map<_, _>>().into())
    }

    /// A part of a case with what its short forms stand for.
    fn filled(&self, part: &Value, connection: &str) -> Value {
        match part {
            Value::String(text) if text == "$connection" => connection.into(),
            Value::String(text) => match text.strip_prefix("$token:") {
                Some(name) => self.tokens.get(name).map_or("a.b.c", String::as_str).into(),
                None => part.clone(),
            },
            Value::Array(parts) => parts
                .iter()
                .map(|part| self.filled(part, connection))
                .collect(),
            Value::Object(parts) => {
                if let Some(Value::Array(repeated)) = parts.get("repeat") {
                    let count = usize::try_from(repeated[1].as_u64().unwrap()).unwrap();
                    return repeated[0].as_str().unwrap().repeat(count).into();
                }
                let there = parts
                    .iter()
                    .filter(|(_, part)| part.get("absent").is_none());
                let filled = there.map(|(key, part)| (key.clone(), self.filled(part, connection)));
                filled.collect::<Map<_, _>>().into()
            }
            other => other.clone(),
        }
    }
}

/// Whether this is what is wanted, and nothing beside.
fn is_like(wanted: &Value, given: &Value) -> bool {
    match (wanted, given) {
        (Value::String(text), given) if text == "$text" => {
            given.as_str().is_some_and(|it| !it.is_empty())
        }
        (Value::String(text), given) if text == "$number" => {
            given.is_u64() || given.as_str().is_some_and(|it| it.parse::<u64>().is_ok())
        }
        (Value::Object(wanted), Value::Object(given)) => {
            let keys = wanted.keys().eq(given.keys());
            keys && wanted
                .iter()
                .all(|(key, wanted)| is_like(wanted, &given[key]))
        }
        (wanted, given) => wanted == given,
    }
}

/// Whether a row has these attributes, and not those that are null.
fn is_like_in(wanted: &Value, row: &Value) -> bool {
    let mut wanted = wanted.as_object().unwrap().iter();
    wanted.all(|(name, wanted)| match (wanted, row.get(name)) {
        (Value::Null, given) => given.is_none(),
        (wanted, given) => given.is_some_and(|given| is_like(wanted, given)),
    })
}
