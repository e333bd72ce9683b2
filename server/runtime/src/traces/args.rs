//! The flags of traces, which are read before anything is started.

use tonic::transport::Uri;

/// Share of what begins that is traced, by default.
const SAMPLE: f64 = 0.01;

/// Whether and where traces are sent.
#[derive(Debug, Clone, clap::Args)]
pub struct TraceArgs {
    /// Collector that traces are sent to, OTLP over gRPC, such as http://127.0.0.1:4317; https:// trusts
    /// the system's authorities. Headers and the resource's attributes are taken of OpenTelemetry's own
    /// variables, OTEL_EXPORTER_OTLP_HEADERS and OTEL_RESOURCE_ATTRIBUTES [default: none: nothing is
    /// traced]
    #[arg(long, env = "TOUCHLINE_OTLP_ENDPOINT", value_parser = endpoint, value_name = "URL")]
    pub otlp_endpoint: Option<Uri>,
    /// Share of changes, and of calls whose caller names no trace, that are traced, 0 to 1; an application
    /// that names one decides
    #[arg(
        long,
        env = "TOUCHLINE_TRACE_SAMPLE",
        default_value_t = SAMPLE,
        value_parser = ratio,
        value_name = "RATIO"
    )]
    pub trace_sample: f64,
}

impl Default for TraceArgs {
    /// The defaults of the flags, whatever the environment says.
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            trace_sample: SAMPLE,
        }
    }
}

fn endpoint(text: &str) -> Result<Uri, String> {
    let accepted = "http:// or https:// with a host, such as http://127.0.0.1:4317, is accepted";
    let url: Uri = text.parse().map_err(|_| accepted.to_owned())?;
    let is_known = matches!(url.scheme_str(), Some("http" | "https"));
    match is_known && url.host().is_some_and(|host| !host.is_empty()) {
        true => Ok(url),
        false => Err(accepted.to_owned()),
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok();
    ratio
        .filter(|ratio| (0.0..=1.0).contains(ratio))
        .ok_or_else(|| "0 to 1 is accepted, such as 0.01".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Process {
        #[command(flatten)]
        traces: TraceArgs,
    }

    fn refused(flag: &str, value: &str) -> String {
        let error = Process::try_parse_from(["process", flag, value]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_flag_and_what_would_be_accepted() {
        for url in ["", "collector:4317", "ftp://collector", "http://", "a b"] {
            let text = refused("--otlp-endpoint", url);
            assert!(text.contains(&format!("'{url}' for '--otlp-endpoint <URL>'")));
            assert!(text.contains("such as http://127.0.0.1:4317, is accepted"));
        }
        for ratio in ["1.01", "-0.1", "NaN", "all", ""] {
            let text = refused(&format!("--trace-sample={ratio}"), "");
            assert!(text.contains("--trace-sample"), "{text}");
        }
        let text = refused("--trace-sample", "2");
        assert!(text.contains("0 to 1 is accepted"), "{text}");
    }

    #[test]
    fn both_ends_and_the_default_are_accepted() {
        let traced = |flags: &[&str]| {
            let flags = ["process"].iter().chain(flags);
            Process::try_parse_from(flags).unwrap().traces
        };
        for (flags, sample) in [
            (&[][..], 0.01),
            (&["--trace-sample", "0"], 0.0),
            (&["--trace-sample", "1"], 1.0),
        ] {
            assert_eq!(traced(flags).trace_sample, sample);
        }
        for url in ["http://127.0.0.1:4317", "https://collector.example"] {
            let args = traced(&["--otlp-endpoint", url]);
            assert!(args.otlp_endpoint.is_some(), "{url}");
        }
    }
}
