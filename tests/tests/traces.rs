//! One change is one trace, from the record of the stream to the last post, over all processes; and what
//! becomes of Touchline when nobody takes its traces.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{net::TcpListener, time::timeout};
use touchline_runtime::traces::TraceArgs;
use touchline_tests::{
    calls,
    collector::{Collector, Span},
    dynamodb::TestDynamodb,
    eventually,
    fan::Fan,
    local::Ports,
    process::{Process, free_address},
    rows,
    stack::{self, TestStack},
};

/// Who watches; none of it may be in a trace.
const CONSUMER: &str = "diego-the-consumer";
const CONTENT: &str = "the-final";

/// How long a stack may take to end that has spans to send and nobody who takes them: two seconds for those
/// of each of its two parts, and some for a machine that is busy.
const END_MAX: Duration = Duration::from_secs(9);

fn args(url: &str, trace_sample: f64) -> Result<TraceArgs> {
    Ok(TraceArgs {
        otlp_endpoint: Some(url.parse()?),
        trace_sample,
    })
}

async fn traced(url: &str, trace_sample: f64) -> Result<TestStack> {
    let traces = args(url, trace_sample)?;
    stack::start_with(None, |args| args.traces = traces).await
}

/// One goal, as a fan sees it.
async fn goal(stack: &TestStack) -> Result<()> {
    let mut fan = Fan::protocol_1(&stack.gateway, CONSUMER, CONTENT).await?;
    rows::put_event(&stack.dynamodb, "1", "GOAL", "FIRST-HALF-1", "1").await?;
    fan.receive().await?;
    Ok(())
}

fn only<'a>(spans: &'a [Span], name: &str) -> Result<&'a Span> {
    let mut named = spans.iter().filter(|span| span.name == name);
    let span = named
        .next()
        .with_context(|| format!("no {name} in {spans:#?}"))?;
    anyhow::ensure!(named.next().is_none(), "more than one {name} in {spans:#?}");
    Ok(span)
}

/// That the one led to the other, in the same trace and not before it.
fn assert_leads(from: &Span, to: &Span) {
    assert_eq!(from.trace_id, to.trace_id, "{from:?} {to:?}");
    assert_eq!(from.span_id, to.parent_span_id, "{from:?} {to:?}");
    assert!(from.unix_ns.0 <= to.unix_ns.0, "{from:?} {to:?}");
    assert!(to.unix_ns.0 <= to.unix_ns.1, "{to:?}");
}

/// The spans of a fan-out are whole, and say how many and not who.
fn assert_fan_out(spans: &[Span], change: &Span) -> Result<()> {
    let fan_out = only(spans, "fan_out")?;
    let lookup = only(spans, "lookup")?;
    let batch = only(spans, "batch_get_components")?;
    let post = only(spans, "post")?;
    assert_eq!(change.parent_span_id, Vec::<u8>::new());
    assert_eq!(change.attributes["touchline.event_id"], "1");
    assert_eq!(change.service, "touchline-push");
    assert_leads(change, fan_out);
    assert_leads(fan_out, lookup);
    assert_leads(lookup, batch);
    assert_leads(fan_out, post);
    assert_eq!(batch.service, "touchline-server");
    assert_eq!(batch.attributes["touchline.origin.embedded"], "1");
    assert_eq!(lookup.attributes["touchline.answered"], "1");
    assert_eq!(post.attributes["touchline.delivered"], "1");
    for key in ["touchline.event_id", "touchline.version"] {
        assert_eq!(change.attributes[key], batch.attributes[key]);
    }
    Ok(())
}

fn assert_nobody_is_named(spans: &[Span]) {
    let all = format!("{spans:?}");
    for secret in [CONSUMER, CONTENT, "ITEM_ID", "FIRST-HALF"] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_is_one_trace_from_the_record_to_the_post() -> Result<()> {
    let collector = Collector::start().await?;
    let stack = traced(collector.url(), 1.0).await?;
    goal(&stack).await?;
    stack.stop().await?;
    let spans = collector.spans();
    let change = only(&spans, "change")?;
    assert_fan_out(&spans, change)?;
    assert_nobody_is_named(&spans);
    // It ends with its last fan, and not with whatever is done after that.
    let fan_out = only(&spans, "fan_out")?;
    assert!(change.unix_ns.1 >= fan_out.unix_ns.1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_a_trace_begins_one_and_one_with_a_trace_is_part_of_it() -> Result<()> {
    use touchline_client::proto;
    use touchline_proto::v1::{
        component_service_client::ComponentServiceClient, get_components_request::Situation,
    };
    let collector = Collector::start().await?;
    let stack = traced(collector.url(), 1.0).await?;
    let written = calls::merge_event(&stack.client, "1", [("match_event", "GOAL")]).await?;
    anyhow::ensure!(!written.version.is_empty());
    let mut client = ComponentServiceClient::connect(stack.server.clone()).await?;
    let mut request = tonic::Request::new(proto::GetComponentsRequest {
        consumer_id: CONSUMER.to_owned(),
        situation: Some(Situation::EventId("1".to_owned())),
        ..Default::default()
    });
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    request
        .metadata_mut()
        .insert("traceparent", traceparent.parse()?);
    client.get_components(request).await?;
    drop(client);
    stack.stop().await?;
    let spans = collector.spans();
    let put = only(&spans, "put_event")?;
    assert!(put.parent_span_id.is_empty());
    assert_eq!(put.attributes["touchline.version"], written.version);
    let get = only(&spans, "get_components")?;
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    assert_eq!(hex(&get.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&get.parent_span_id), "b7ad6b7169203331");
    assert_eq!(get.attributes["touchline.origin"], "embedded");
    assert_nobody_is_named(&spans);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ratio_of_nothing_sends_nothing() -> Result<()> {
    let collector = Collector::start().await?;
    let stack = traced(collector.url(), 0.0).await?;
    goal(&stack).await?;
    calls::components(&stack.client, CONSUMER, "1").await?;
    stack.stop().await?;
    assert_eq!(collector.count(), 0, "{:?}", collector.spans());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_collector_that_is_not_there_or_never_answers() -> Result<()> {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    for address in [free_address()?, silent.local_addr()?] {
        let stack = traced(&format!("http://{address}"), 1.0).await?;
        goal(&stack).await?;
        calls::components(&stack.client, CONSUMER, "1").await?;
        let began = Instant::now();
        stack.stop().await?;
        let took = began.elapsed();
        assert!(took < END_MAX, "{address}: {took:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_over_tls_is_known_by_the_systems_authorities() -> Result<()> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?;
    let certificate = certificate.signed_by(&key, &authority)?;
    let files = tempfile::tempdir()?;
    let authorities = files.path().join("authorities.pem");
    std::fs::write(&authorities, authority.pem())?;
    let collector = Collector::start_secure(&certificate.pem(), &key.serialize_pem()).await?;
    let ports = Ports::free()?;
    let authorities = authorities.to_str().context("a path in words")?;
    // Where OpenSSL, and who does as it does, looks for them first.
    for (environment, are_known) in [
        (vec![("SSL_CERT_FILE", authorities)], true),
        (vec![], false),
    ] {
        let flags = ["--memory", "--no-replay", "--fans", "0"];
        let traced = ["--otlp-endpoint", collector.url(), "--trace-sample", "1"];
        let stack = ports
            .start_in(&[flags, traced].concat(), &environment)
            .await?;
        let before = collector.count();
        eventually("an event is put", || async {
            let client = ports.client().ok()?;
            calls::merge_event(&client, "1", [("match_event", "GOAL")])
                .await
                .ok()
        })
        .await;
        ports.ready().await;
        assert_eq!(stack.terminate().await?, Some(0));
        assert_eq!(collector.count() > before, are_known);
    }
    Ok(())
}

/// The processes of an installation with a gateway, all of which trace everything.
struct Installation {
    dynamodb: TestDynamodb,
    collector: String,
    grpc: SocketAddr,
}

impl Installation {
    async fn start(
        &self,
        name: &'static str,
        flags: &[&str],
        address: SocketAddr,
    ) -> Result<Process> {
        let own = [
            "--dynamodb-endpoint",
            &self.dynamodb.endpoint,
            "--region",
            &self.dynamodb.region,
            "--metrics-listen",
            "127.0.0.1:0",
            "--otlp-endpoint",
            &self.collector,
            "--trace-sample",
            "1",
        ];
        let mut process = Process::start(name, &[flags, &own].concat())?;
        process.listens(address).await?;
        Ok(process)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateways_fan_out_is_part_of_its_leaders_trace() -> Result<()> {
    let collector = Collector::start().await?;
    let installation = Installation {
        dynamodb: TestDynamodb::start().await?,
        collector: collector.url().to_owned(),
        grpc: free_address()?,
    };
    let grpc = installation.grpc.to_string();
    let server_url = format!("http://{grpc}");
    let flags = ["--listen", &grpc, "--catalog-refresh", "1s"];
    let server = installation
        .start("touchline-server", &flags, installation.grpc)
        .await?;
    let (feed, fronts) = (free_address()?, [free_address()?, free_address()?]);
    let [leaders, fans] = fronts.map(|address| address.to_string());
    let (feed_listen, management) = (feed.to_string(), free_address()?.to_string());
    let flags = [
        "--server",
        &server_url,
        "--listen",
        &feed_listen,
        "--fans-listen",
        &leaders,
        "--management-listen",
        &management,
        "--poll-interval",
        "20ms",
    ];
    let leader = installation.start("touchline-push", &flags, feed).await?;
    let flags = ["gateway", "--server", &server_url, "--fans-listen", &fans];
    let gateway = installation
        .start("touchline-push", &flags, fronts[1])
        .await?;
    let client = installation.dynamodb.client().await;
    let row = [
        ("item_id", rows::text("ITEM_ID_1")),
        ("item_type", rows::text("PLAYER")),
    ];
    eventually("an item can be put", || async {
        rows::put(&client, rows::ITEM_TABLE, row.clone()).await.ok()
    })
    .await;
    let mut fan = Fan::protocol_1(&format!("ws://{fans}/dev"), CONSUMER, CONTENT).await?;
    // Until the gateway knows the newest states, what it hears is nobody's news.
    for goals in 1.. {
        let score = goals.to_string();
        rows::put_event(&client, "1", "GOAL", "FIRST-HALF-1", &score).await?;
        if let Ok(shown) = timeout(Duration::from_secs(1), fan.receive()).await {
            shown?;
            break;
        }
        anyhow::ensure!(goals < 20, "no goal is shown");
    }
    for process in [gateway, leader, server] {
        assert_eq!(process.terminate().await?, Some(0));
    }
    let spans = collector.spans();
    // The last goal is the one that was shown; those before it may have been lost on somebody.
    let shown = spans
        .iter()
        .rev()
        .find(|span| span.name == "fan_out" && span.service == "touchline-gateway")
        .context("no fan-out of the gateway")?;
    let of_trace = |span: &&Span| span.trace_id == shown.trace_id;
    let trace: Vec<Span> = spans.iter().filter(of_trace).cloned().collect();
    // The leader's own front has no fans, but looks for some.
    let trace: Vec<Span> = trace
        .into_iter()
        .filter(|span| span.name == "change" || span.service != "touchline-push")
        .collect();
    assert_fan_out(&trace, only(&trace, "change")?)?;
    assert_nobody_is_named(&spans);
    installation.dynamodb.stop().await;
    Ok(())
}
