//! What can be set about Amazon Personalize beyond where it is: what is asked for, with which
//! budget, and who answers when it does not. The doc comments are the text of `--help`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{InvalidFlag, count, duration, refuse};
use crate::{
    recommend::{
        refinement::{Filter, Promotion, Refinement},
        serving::Source,
    },
    users::{AGE, COUNTRY, GENDER},
};

/// A penalty ends in a goal or does not: what else may follow is rare.
const PREFETCH_CONTEXTS: usize = 3;

/// How Personalize is asked, and what stands in for it.
#[derive(Debug, Clone, clap::Args)]
pub struct ServingArgs {
    /// The Personalize recommender (domain data set group) to ask, instead of --campaign-arn
    #[arg(
        long,
        env = "TOUCHLINE_RECOMMENDER_ARN",
        value_name = "ARN",
        conflicts_with = "campaign_arn"
    )]
    pub recommender_arn: Option<String>,
    /// File that holds the ARN to ask, a campaign's or a recommender's of the same region; read
    /// again every 2s, so that another campaign takes effect without a restart; wins over the ARN
    /// flags [default: none]
    #[arg(long, env = "TOUCHLINE_CAMPAIGN_FILE", value_name = "FILE")]
    pub campaign_file: Option<PathBuf>,
    /// Personalize filter of every question that names none of its own [default: none]
    #[arg(long, env = "TOUCHLINE_FILTER_ARN", value_name = "ARN")]
    pub filter_arn: Option<String>,
    /// Value of a parameter of --filter-arn, texts in double quotes; may be repeated, at most 25
    #[arg(long, value_parser = parse_value, value_name = "NAME=VALUE", requires = "filter_arn")]
    pub filter_value: Vec<(String, String)>,
    /// Name of a Personalize promotion of every question that names none of its own, 1 to 63
    /// letters, digits, - and _ [default: none]
    #[arg(
        long,
        env = "TOUCHLINE_PROMOTION_NAME",
        value_name = "NAME",
        requires = "promotion_filter_arn"
    )]
    pub promotion_name: Option<String>,
    /// Filter that says what --promotion-name promotes
    #[arg(
        long,
        env = "TOUCHLINE_PROMOTION_FILTER_ARN",
        value_name = "ARN",
        requires = "promotion_name"
    )]
    pub promotion_filter_arn: Option<String>,
    /// Value of a parameter of --promotion-filter-arn; may be repeated, at most 25
    #[arg(long, value_parser = parse_value, value_name = "NAME=VALUE", requires = "promotion_name")]
    pub promotion_value: Vec<(String, String)>,
    /// Share of the ranking that the promotion takes, in percent, 1 to 100
    #[arg(
        long,
        env = "TOUCHLINE_PROMOTION_PERCENT",
        default_value_t = 10,
        value_name = "PERCENT"
    )]
    pub promotion_percent: u32,
    /// Columns of Personalize's items data set that come back with each component, separated by
    /// commas, at most 99; with any, --num-results is at most 50 [default: none]
    #[arg(
        long,
        env = "TOUCHLINE_METADATA_COLUMNS",
        value_delimiter = ',',
        value_name = "COLUMNS"
    )]
    pub metadata_columns: Vec<String>,
    /// Questions to Personalize a second, of all replicas together, 1 to 100,000; never exceeded,
    /// and less while Personalize throttles. A campaign's default quota is 500
    #[arg(
        long,
        env = "TOUCHLINE_PERSONALIZE_TPS",
        default_value_t = 500,
        value_name = "COUNT"
    )]
    pub personalize_tps: u32,
    /// Headless service whose addresses are this server's replicas: each takes its part of
    /// --personalize-tps, as they come and go [default: this server is alone]
    #[arg(long, env = "TOUCHLINE_REPLICAS_SERVICE", value_name = "HOST")]
    pub replicas_service: Option<String>,
    /// How long past --ranking-ttl a ranking is served while a newer one is asked for, at most 24h;
    /// 0s for never
    #[arg(long, env = "TOUCHLINE_RANKING_STALE", default_value = "10m", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub ranking_stale: Duration,
    /// After this long without an answer of Personalize the next best source answers, 1ms to 30s;
    /// earlier if the caller's deadline is near
    #[arg(long, env = "TOUCHLINE_PATIENCE", default_value = "250ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub patience: Duration,
    /// How long a question to Personalize goes on that another source has answered, while its state
    /// stands, at most 10m; 0s for not beyond the caller's deadline
    #[arg(long, env = "TOUCHLINE_LATE_ANSWERS", default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub late_answers: Duration,
    /// Whether WatchEvent sends another set when Personalize's answer comes later and differs
    #[arg(
        long,
        env = "TOUCHLINE_FOLLOW_UP",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "true|false"
    )]
    pub follow_up: bool,
    /// In how many contexts that are likely to come next, as the states seen so far teach, rankings
    /// are asked for ahead with budget that nobody else wants, at most 10; 0 for never
    #[arg(
        long,
        env = "TOUCHLINE_PREFETCH_CONTEXTS",
        default_value_t = PREFETCH_CONTEXTS,
        value_name = "COUNT"
    )]
    pub prefetch_contexts: usize,
    /// Who answers when Personalize does not and nothing is cached, the best first, separated by
    /// commas
    #[arg(
        long,
        env = "TOUCHLINE_FALLBACK",
        value_delimiter = ',',
        default_values = ["cohort", "embedded", "popular"],
        value_enum
    )]
    pub fallback: Vec<Source>,
    /// Whether the embedded ranker and what is popular, which know no filters, may answer a question
    /// that has one; without it such a question has its cohort's answer or none
    #[arg(long, env = "TOUCHLINE_FALLBACK_UNFILTERED")]
    pub fallback_unfiltered: bool,
    /// Columns of --users that make a cohort, separated by commas, 1 to 8
    #[arg(
        long,
        env = "TOUCHLINE_COHORT_COLUMNS",
        value_delimiter = ',',
        default_values = [AGE, GENDER, COUNTRY],
        value_name = "COLUMNS"
    )]
    pub cohort_columns: Vec<String>,
}

impl Default for ServingArgs {
    /// The defaults of the flags, whatever the environment says.
    fn default() -> Self {
        Self {
            recommender_arn: None,
            campaign_file: None,
            filter_arn: None,
            filter_value: Vec::new(),
            promotion_name: None,
            promotion_filter_arn: None,
            promotion_value: Vec::new(),
            promotion_percent: 10,
            metadata_columns: Vec::new(),
            personalize_tps: 500,
            replicas_service: None,
            ranking_stale: Duration::from_mins(10),
            patience: Duration::from_millis(250),
            late_answers: Duration::from_secs(30),
            follow_up: true,
            prefetch_contexts: PREFETCH_CONTEXTS,
            fallback: vec![Source::Cohort, Source::Embedded, Source::Popular],
            fallback_unfiltered: false,
            cohort_columns: [AGE, GENDER, COUNTRY].map(str::to_owned).to_vec(),
        }
    }
}

impl ServingArgs {
    /// Filter, promotion and metadata columns of questions that name none of their own.
    pub(crate) fn refinement(&self) -> Refinement {
        let values = |values: &[(String, String)]| -> BTreeMap<String, String> {
            values.iter().cloned().collect()
        };
        Refinement {
            filter: self.filter_arn.clone().map(|arn| Filter {
                arn,
                values: values(&self.filter_value),
            }),
            promotion: self.promotion_name.clone().map(|name| Promotion {
                name,
                percent: self.promotion_percent,
                filter: Filter {
                    arn: self.promotion_filter_arn.clone().unwrap_or_default(),
                    values: values(&self.promotion_value),
                },
            }),
            metadata_columns: self.metadata_columns.clone(),
        }
    }

    /// Checks everything that can be checked without a socket.
    pub(super) fn validate(&self, num_results: usize) -> Result<(), InvalidFlag> {
        if let Some(problem) = self.refinement().problems(num_results).into_iter().next() {
            let (flag, value) = self.flag_of(&problem.field, num_results);
            return Err(refuse(flag, value, problem.description));
        }
        if let Some(path) = &self.campaign_file
            && !path.is_file()
        {
            return Err(refuse(
                "--campaign-file",
                path.display(),
                "a file that exists",
            ));
        }
        count("--personalize-tps", self.personalize_tps as usize, 100_000)?;
        let (ms, hours) = (Duration::from_millis, Duration::from_hours);
        let zero = Duration::ZERO;
        duration("--ranking-stale", self.ranking_stale, zero, hours(24))?;
        duration("--patience", self.patience, ms(1), ms(30_000))?;
        duration(
            "--late-answers",
            self.late_answers,
            zero,
            Duration::from_mins(10),
        )?;
        if self.prefetch_contexts > 10 {
            let accepted = "0 to 10 is accepted";
            return Err(refuse(
                "--prefetch-contexts",
                self.prefetch_contexts,
                accepted,
            ));
        }
        count("--cohort-columns", self.cohort_columns.len(), 8)?;
        self.validate_fallback()
    }

    fn validate_fallback(&self) -> Result<(), InvalidFlag> {
        let is_alone = self.fallback.len() == 1;
        let mut seen = Vec::new();
        for source in &self.fallback {
            if seen.contains(&source) || (*source == Source::None && !is_alone) {
                let value = format!("{:?}", self.fallback).to_lowercase();
                let accepted = "each of cohort, embedded and popular at most once, or none alone";
                return Err(refuse("--fallback", value, accepted));
            }
            seen.push(source);
        }
        Ok(())
    }

    /// The flag that a refinement's field was given by.
    fn flag_of(&self, field: &str, num_results: usize) -> (&'static str, String) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        match field {
            "num_results" => ("--num-results", num_results.to_string()),
            "filter.filter_arn" => ("--filter-arn", text(&self.filter_arn)),
            "promotions[0].name" => ("--promotion-name", text(&self.promotion_name)),
            "promotions[0].percent_promoted_items" => {
                ("--promotion-percent", self.promotion_percent.to_string())
            }
            "promotions[0].filter.filter_arn" => {
                ("--promotion-filter-arn", text(&self.promotion_filter_arn))
            }
            field if field.starts_with("filter.values") => ("--filter-value", field.to_owned()),
            field if field.starts_with("promotions") => ("--promotion-value", field.to_owned()),
            _ => ("--metadata-columns", self.metadata_columns.join(",")),
        }
    }
}

fn parse_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("NAME=VALUE is accepted, such as KIND=\"PLAYER\"")?;
    Ok((name.to_owned(), value.to_owned()))
}
