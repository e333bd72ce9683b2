//! Which flags are refused, and what is said of them.

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    server: ServerArgs,
}

fn parsed(flags: &[&str]) -> ServerArgs {
    let words = std::iter::once("server").chain(flags.iter().copied());
    Command::parse_from(words).server
}

#[test]
fn without_flags_the_defaults_are_the_same_as_in_code() {
    let flags = parsed(&[]);
    assert_eq!(format!("{flags:?}"), format!("{:?}", ServerArgs::default()));
    assert_eq!(flags.validate(), Ok(()));
}

#[test]
fn a_bad_flag_is_named_with_its_value_and_what_is_accepted() {
    for (flags, named) in [
        (
            &["--listen", "0.0.0.0:1"][..],
            "--listen 0.0.0.0:1: a loopback",
        ),
        (
            &["--context-keys", "goal"],
            "--context-keys goal: keys in upper",
        ),
        (
            &["--context-keys", "A,,B"],
            "--context-keys : keys in upper",
        ),
        (
            &["--catalog-refresh", "1ms"],
            "--catalog-refresh 1ms: 1s to 1h",
        ),
        (
            &["--default-deadline", "0s"],
            "--default-deadline 0s: 10ms to",
        ),
        (&["--max-calls", "0"], "--max-calls 0: 1 to 1000000"),
        (
            &["--max-connection-age", "500ms"],
            "--max-connection-age 500ms: 1s to 1day is accepted",
        ),
        (
            &["--feedback-max", "0"],
            "--feedback-max 0: 1 to 10000000 is accepted",
        ),
        (
            &["--personalize-tps", "0"],
            "--personalize-tps 0: 1 to 100000",
        ),
        (
            &["--prefetch-contexts", "11"],
            "--prefetch-contexts 11: 0 to 10 is accepted",
        ),
        (&["--patience", "0s"], "--patience 0s: 1ms to 30s"),
        (&["--ranking-stale", "2days"], "--ranking-stale 2days: 0s"),
        (&["--late-answers", "1h"], "--late-answers 1h: 0s to 10m"),
        (
            &["--fallback", "none,popular"],
            "--fallback [none, popular]: each of",
        ),
        (
            &["--fallback", "popular,popular"],
            "--fallback [popular, popular]: each of",
        ),
        (
            &["--campaign-file", "/no/such"],
            "--campaign-file /no/such: a file",
        ),
        (
            &["--filter-arn", "arn:aws:s3:::x"],
            "--filter-arn arn:aws:s3:::x: an ARN",
        ),
        (
            &["--num-results", "51", "--metadata-columns", "LABEL"],
            "--num-results 51: is 51; at most 50",
        ),
        (
            &[
                "--recommender",
                "personalize",
                "--recommender-arn",
                "arn:aws:personalize:eu-west-1:1:campaign/x",
            ],
            "--recommender-arn arn:aws:personalize:eu-west-1:1:campaign/x: arn:",
        ),
        (
            &["--interactions", "/no/such"],
            "--interactions /no/such: a file",
        ),
        (&["--users", "/no/such"], "--users /no/such: a file"),
        (&["--policies", "/"], "--policies /: a file"),
        (&["--feedback", "/"], "--feedback /: a file"),
        (
            &["--recommender", "personalize"],
            "--campaign-arn : arn:aws:",
        ),
        (
            &[
                "--recommender",
                "personalize",
                "--campaign-arn",
                "arn:aws:s3:::x",
            ],
            "--campaign-arn arn:aws:s3:::x: arn:aws:personalize:",
        ),
        (
            &[
                "--recommender",
                "personalize",
                "--campaign-arn",
                "arn:aws:personalize:eu-west-1:1:campaign/x",
                "--personalize-endpoint",
                "nowhere",
            ],
            "--personalize-endpoint nowhere: a URL",
        ),
    ] {
        let error = parsed(flags).validate().unwrap_err().to_string();
        assert!(error.starts_with(named), "{flags:?} gave {error}");
    }
}

#[test]
fn a_bad_number_of_results_is_named_with_what_is_accepted() {
    for bad in ["0", "501", "many"] {
        let parsed = Command::try_parse_from(["server", "--num-results", bad]);
        let error = parsed.unwrap_err().to_string();
        let named = format!("'{bad}' for '--num-results <COUNT|all>': 1 to 500 is accepted");
        assert!(error.contains(&named), "{error}");
    }
    let args = ServerArgs {
        num_results: NumResults::Count(501),
        ..ServerArgs::default()
    };
    assert_eq!(
        args.validate().unwrap_err().to_string(),
        "--num-results 501: 1 to 500 is accepted, or `all`"
    );
    assert_eq!(parsed(&["--num-results", "all"]).validate(), Ok(()));
}

#[test]
fn insecure_allows_what_is_said_in_so_many_words() {
    let flags = parsed(&["--listen", "0.0.0.0:1", "--insecure"]);
    assert_eq!(flags.validate(), Ok(()));
    let flags = parsed(&["--metrics-listen", "0.0.0.0:1"]);
    assert_eq!(flags.validate(), Ok(()), "they carry no data");
}

#[test]
fn the_campaign_names_its_region() {
    let arn = "arn:aws:personalize:eu-west-1:123456789012:campaign/fans";
    let flags = ["--recommender", "personalize", "--campaign-arn", arn];
    assert_eq!(parsed(&flags).personalize().unwrap().region, "eu-west-1");
    let elsewhere = [&flags[..], &["--personalize-region", "us-east-1"]].concat();
    let config = parsed(&elsewhere).personalize().unwrap();
    assert_eq!(config.region, "us-east-1");
}
