//! Every kind of bad token, and the good ones, over keys from a file and from a URL.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use serde_json::{Value, json};
use touchline_auth::{
    AuthArgs, Identity, Refused, Scope, Verifier,
    issue::{AUDIENCE, ISSUER, SigningKey, claims, key_set, seconds_from_now, sign_by_secret},
};

const HOUR: Duration = Duration::from_secs(3_600);

fn args(jwks: &str) -> AuthArgs {
    AuthArgs {
        auth_jwks: Some(jwks.parse().unwrap()),
        auth_issuer: vec![ISSUER.to_owned()],
        auth_audience: vec![AUDIENCE.to_owned()],
        ..AuthArgs::default()
    }
}

struct World {
    verifier: Verifier,
    _folder: tempfile::TempDir,
}

fn world(keys: &[&SigningKey], change: impl FnOnce(&mut AuthArgs)) -> World {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, key_set(keys)).unwrap();
    let mut args = args(file.to_str().unwrap());
    change(&mut args);
    args.validate().unwrap();
    World {
        verifier: Verifier::open(&args).unwrap().unwrap(),
        _folder: folder,
    }
}

impl World {
    async fn verify(&self, token: &str) -> Result<Identity, Refused> {
        self.verifier.verify(token).await
    }
}

#[tokio::test]
async fn a_good_token_of_each_kind_of_key_says_who_it_is() {
    let keys = [
        SigningKey::es256("e"),
        SigningKey::eddsa("d"),
        SigningKey::rs256("r"),
    ];
    let world = world(&keys.each_ref(), |_| {});
    for key in &keys {
        let scopes = "openid touchline:components touchline:feedback components:any";
        let identity = world
            .verify(&key.sign(&claims("ann", HOUR, scopes)))
            .await
            .unwrap();
        assert_eq!(
            identity.consumer_id.as_deref(),
            Some("ann"),
            "{}",
            key.algorithm()
        );
        assert!(identity.scopes.has(Scope::Components) && identity.scopes.has(Scope::Feedback));
        assert!(
            !identity.scopes.has(Scope::ComponentsAny),
            "a scope without the prefix is another's"
        );
        assert!(!format!("{identity:?}").contains("ann"));
    }
}

/// A claim replaced, or removed.
fn with(claim: &str, value: Value) -> Value {
    let mut claims = claims("ann", HOUR, "touchline:components");
    match value {
        Value::Null => claims.as_object_mut().unwrap().shift_remove(claim),
        value => claims
            .as_object_mut()
            .unwrap()
            .insert(claim.to_owned(), value),
    };
    claims
}

#[tokio::test]
async fn every_bad_token_is_refused_for_what_is_wrong_with_it() {
    let (key, stranger, rsa) = (
        SigningKey::es256("e"),
        SigningKey::es256("e"),
        SigningKey::rs256("r"),
    );
    let other = SigningKey::es256("unknown");
    let world = world(&[&key, &rsa], |_| {});
    let good = claims("ann", HOUR, "touchline:components");
    let seconds = |seconds| seconds_from_now(Duration::from_secs(seconds));
    let past = seconds(0) - 60;
    let header = |alg: &str, kid: &str| json!({"alg": alg, "kid": kid});
    let claim = |name: &str| Refused::Claim(name.to_owned());
    let public = rsa.public()["n"].as_str().unwrap().to_owned();
    let signed = key.sign(&good);
    let (unsigned, signature) = signed.rsplit_once('.').unwrap();
    let swapped = {
        let forged = key.sign(&with("sub", "bob".into()));
        let (forged, _) = forged.rsplit_once('.').unwrap();
        format!("{forged}.{signature}")
    };
    let table: Vec<(&str, String, Refused)> = vec![
        (
            "expired",
            key.sign(&with("exp", past.into())),
            Refused::Expired,
        ),
        ("no end", key.sign(&with("exp", Value::Null)), claim("exp")),
        (
            "an end that is text",
            key.sign(&with("exp", "never".into())),
            claim("exp"),
        ),
        (
            "not yet valid",
            key.sign(&with("nbf", seconds(90).into())),
            Refused::NotYetValid,
        ),
        (
            "a beginning that is text",
            key.sign(&with("nbf", "now".into())),
            claim("nbf"),
        ),
        (
            "wrong audience",
            key.sign(&with("aud", "somebody".into())),
            Refused::Audience,
        ),
        (
            "wrong audiences",
            key.sign(&with("aud", json!(["a", "b"]))),
            Refused::Audience,
        ),
        (
            "no audience",
            key.sign(&with("aud", Value::Null)),
            claim("aud"),
        ),
        (
            "wrong issuer",
            key.sign(&with("iss", "https://evil.test".into())),
            Refused::Issuer,
        ),
        (
            "no issuer",
            key.sign(&with("iss", Value::Null)),
            claim("iss"),
        ),
        ("unknown key", other.sign(&good), Refused::UnknownKey),
        (
            "another's key under a known name",
            stranger.sign(&good),
            Refused::Signature,
        ),
        ("somebody else's claims", swapped, Refused::Signature),
        (
            "none",
            key.sign_with(&header("none", "e"), &good),
            Refused::Algorithm,
        ),
        (
            "none, unsigned",
            {
                let token = key.sign_with(&header("none", "e"), &good);
                format!("{}.", token.rsplit_once('.').unwrap().0)
            },
            Refused::Algorithm,
        ),
        (
            "signature cut off",
            format!("{unsigned}."),
            Refused::Signature,
        ),
        (
            "HS256 by the public key",
            sign_by_secret(public.as_bytes(), &header("HS256", "r"), &good),
            Refused::Algorithm,
        ),
        (
            "HS256 by the public key's set entry",
            sign_by_secret(
                rsa.public().to_string().as_bytes(),
                &header("HS256", "r"),
                &good,
            ),
            Refused::Algorithm,
        ),
        (
            "HS256 without a key's name",
            sign_by_secret(b"", &json!({"alg": "HS256"}), &good),
            Refused::UnknownKey,
        ),
        (
            "an algorithm of another key",
            key.sign_with(&header("RS256", "e"), &good),
            Refused::Algorithm,
        ),
        (
            "another algorithm of the same kind",
            rsa.sign_with(&header("RS512", "r"), &good),
            Refused::Algorithm,
        ),
        (
            "an algorithm that nobody knows",
            key.sign_with(&header("XX256", "e"), &good),
            Refused::Algorithm,
        ),
        (
            "what must be understood and is not",
            key.sign_with(
                &json!({"alg": "ES256", "kid": "e", "crit": ["b64"], "b64": false}),
                &good,
            ),
            Refused::Malformed,
        ),
        (
            "a key of its own",
            other.sign_with(&json!({"alg": "ES256", "jwk": other.public()}), &good),
            Refused::Signature,
        ),
        (
            "oversized",
            key.sign(&with("x", "x".repeat(8 << 10).into())),
            Refused::TooLarge,
        ),
        ("nothing", String::new(), Refused::Missing),
        ("garbage", "garbage".to_owned(), Refused::Malformed),
        (
            "three parts of garbage",
            "a.b.c".to_owned(),
            Refused::Malformed,
        ),
        (
            "no text",
            "\u{0}.\u{7}.\u{fffd}".to_owned(),
            Refused::Malformed,
        ),
        (
            "a consumer that is an object",
            key.sign(&with("sub", json!({}))),
            Refused::Malformed,
        ),
        (
            "an empty consumer",
            key.sign(&with("sub", "".into())),
            claim("sub"),
        ),
        (
            "a consumer too long",
            key.sign(&with("sub", "x".repeat(257).into())),
            claim("sub"),
        ),
    ];
    for (what, token, refused) in table {
        let verified = world.verify(&token).await;
        assert_eq!(verified, Err(refused.clone()), "{what}");
        // What is said of a token repeats nothing of it.
        let text = format!("{refused} {refused:?}");
        let parts = token.split('.').filter(|part| part.len() > 8);
        let repeated = parts.chain(["evil"]).find(|part| text.contains(part));
        assert_eq!(repeated, None, "{what}: {text}");
    }
}

#[tokio::test]
async fn the_issuers_clock_may_be_off_by_the_skew_and_no_more() {
    let key = SigningKey::es256("e");
    let world = world(&[&key], |args| {
        args.auth_clock_skew = Duration::from_secs(60);
    });
    let ago = |seconds| Value::from(seconds_from_now(Duration::ZERO) - seconds);
    let in_ = |seconds| Value::from(seconds_from_now(Duration::from_secs(seconds)));
    for (claim, value, refused) in [
        ("exp", ago(50), None),
        ("exp", ago(70), Some(Refused::Expired)),
        ("nbf", in_(50), None),
        ("nbf", in_(70), Some(Refused::NotYetValid)),
    ] {
        let verified = world.verify(&key.sign(&with(claim, value))).await;
        assert_eq!(verified.err(), refused, "{claim}");
    }
}

#[tokio::test]
async fn a_token_that_names_no_key_is_verified_by_the_only_one_there_is() {
    let (es, rs) = (SigningKey::es256("e"), SigningKey::rs256("r"));
    let nameless = es.sign_with(&json!({"alg": "ES256"}), &claims("ann", HOUR, ""));
    let one = world(&[&es, &rs], |_| {});
    one.verify(&nameless).await.unwrap();
    let other = SigningKey::es256("other");
    let two = world(&[&es, &other], |_| {});
    assert_eq!(two.verify(&nameless).await, Err(Refused::UnknownKey));
}

#[tokio::test]
async fn claims_and_scopes_can_be_called_otherwise() {
    let key = SigningKey::es256("e");
    let world = world(&[&key], |args| {
        args.auth_audience_claim = "client_id".to_owned();
        args.auth_consumer_claim = "username".to_owned();
        args.auth_scope_prefix = "touchline/".to_owned();
        args.auth_default_scopes = vec![Scope::Components];
    });
    let mut claims = json!({
        "iss": ISSUER,
        "exp": seconds_from_now(HOUR),
        "client_id": AUDIENCE,
        "username": 42,
        "scp": ["touchline/events:write", "other"],
    });
    let identity = world.verify(&key.sign(&claims)).await.unwrap();
    assert_eq!(identity.consumer_id.as_deref(), Some("42"));
    assert!(identity.scopes.has(Scope::Components) && identity.scopes.has(Scope::EventsWrite));
    assert!(!identity.scopes.has(Scope::ComponentsAny));
    claims["client_id"] = "another".into();
    assert_eq!(
        world.verify(&key.sign(&claims)).await,
        Err(Refused::Audience)
    );
    claims.as_object_mut().unwrap().shift_remove("client_id");
    let missing = Refused::Claim("client_id".to_owned());
    assert_eq!(world.verify(&key.sign(&claims)).await, Err(missing));
}

/// A key set behind a URL, and how often it was asked for.
struct Published {
    url: String,
    keys: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
    _serving: tokio::task::JoinSet<()>,
}

impl Published {
    async fn start(keys: Option<String>) -> Self {
        let (keys, asked) = (Arc::new(Mutex::new(keys)), Arc::new(AtomicUsize::new(0)));
        let (answer, count) = (keys.clone(), asked.clone());
        let handler = move || {
            let (answer, count) = (answer.clone(), count.clone());
            async move {
                count.fetch_add(1, Relaxed);
                let keys = answer.lock().unwrap().clone();
                keys.ok_or(axum::http::StatusCode::SERVICE_UNAVAILABLE)
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let router = Router::new().route("/jwks", get(handler));
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            keys,
            asked,
            _serving: serving,
        }
    }

    fn verifier(&self) -> Verifier {
        Verifier::open(&args(&self.url)).unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_key_is_fetched_once_and_a_flood_of_unknown_keys_costs_the_issuer_one_look() {
    let key = SigningKey::es256("one");
    let published = Published::start(Some(key_set(&[&key]))).await;
    let verifier = published.verifier();
    let token = key.sign(&claims("ann", HOUR, ""));
    for _ in 0..100 {
        verifier.verify(&token).await.unwrap();
    }
    let unknown = SigningKey::es256("unknown").sign(&claims("ann", HOUR, ""));
    for _ in 0..100 {
        assert_eq!(verifier.verify(&unknown).await, Err(Refused::UnknownKey));
    }
    // The first fetch was a moment ago, so that not even one more was made.
    assert_eq!(published.asked.load(Relaxed), 1);
}

#[tokio::test]
async fn a_rotated_key_is_found_and_one_that_was_removed_is_unknown() {
    let (old, new) = (SigningKey::es256("old"), SigningKey::eddsa("new"));
    let published = Published::start(Some(key_set(&[&old]))).await;
    let verifier = published.verifier();
    let by = |key: &SigningKey| key.sign(&claims("ann", HOUR, ""));
    verifier.verify(&by(&old)).await.unwrap();
    *published.keys.lock().unwrap() = Some(key_set(&[&new]));
    // The pause between two looks is real time: the clock that is paused is tokio's.
    let found = async {
        while verifier.verify(&by(&new)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found)
        .await
        .unwrap();
    assert_eq!(published.asked.load(Relaxed), 2);
    assert_eq!(verifier.verify(&by(&old)).await, Err(Refused::UnknownKey));
}

#[tokio::test]
async fn an_issuer_that_cannot_be_asked_says_nothing_about_the_token() {
    let key = SigningKey::es256("one");
    let published = Published::start(None).await;
    let verifier = published.verifier();
    let token = key.sign(&claims("ann", HOUR, ""));
    assert_eq!(verifier.verify(&token).await, Err(Refused::Unavailable));
    for junk in [
        "junk",
        "{}",
        r#"{"keys":[]}"#,
        r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#,
    ] {
        *published.keys.lock().unwrap() = Some(junk.to_owned());
        let verifier = published.verifier();
        assert_eq!(
            verifier.verify(&token).await,
            Err(Refused::Unavailable),
            "{junk}"
        );
    }
}

#[tokio::test]
async fn one_strange_key_spoils_none_of_the_others() {
    let key = SigningKey::es256("one");
    let mut set: Value = serde_json::from_str(&key_set(&[&key])).unwrap();
    let keys = set["keys"].as_array_mut().unwrap();
    keys.insert(0, json!({"kty": "PQC", "kid": "new", "alg": "ML-DSA-44"}));
    keys.insert(0, json!("no key at all"));
    keys.insert(
        0,
        json!({"kty": "EC", "crv": "P-256", "x": "!", "y": "!", "kid": "bad"}),
    );
    let published = Published::start(Some(set.to_string())).await;
    let token = key.sign(&claims("ann", HOUR, ""));
    published.verifier().verify(&token).await.unwrap();
}

#[tokio::test]
async fn a_key_for_encryption_verifies_nothing() {
    let (key, signing) = (SigningKey::es256("enc"), SigningKey::es256("sig"));
    let mut set: Value = serde_json::from_str(&key_set(&[&key, &signing])).unwrap();
    set["keys"][0]["use"] = "enc".into();
    let published = Published::start(Some(set.to_string())).await;
    let token = key.sign(&claims("ann", HOUR, ""));
    assert_eq!(
        published.verifier().verify(&token).await,
        Err(Refused::UnknownKey)
    );
}
