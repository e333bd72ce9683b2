//! Cohorts: a synthetic consumer for everybody who shares the values of some columns of the users
//! file. Pure. That the recommender was trained with them is up to whoever trains it
//! (`docs/serving.md`).

use std::sync::Arc;

use touchline_store::ids::ConsumerId;

use crate::users::{AGE, User, Users};

/// What a cohort's id begins with.
pub const PREFIX: &str = "cohort:";
/// The first year of each band of ages. 18 begins one, so that no band mixes minors and adults.
const AGE_BANDS: [u32; 8] = [0, 13, 18, 25, 35, 45, 55, 65];

/// Which cohort a consumer belongs to.
#[derive(Debug)]
pub struct Cohorts {
    users: Arc<Users>,
    columns: Vec<String>,
}

impl Cohorts {
    /// By these columns of the file, in this order.
    pub fn new(users: Arc<Users>, columns: Vec<String>) -> Self {
        Self { users, columns }
    }

    /// The cohort of a consumer; `None` for one of whom nothing is known.
    pub fn of(&self, consumer_id: &ConsumerId) -> Option<ConsumerId> {
        cohort(&self.users.get(consumer_id)?, &self.columns)
    }
}

/// The id of a user's cohort, such as `cohort:AGE=25-34;GENDER=F;COUNTRY=AR`; a column that is
/// blank is left out. `None` when all are, or when the id would be longer than Personalize accepts.
pub fn cohort(user: &User<'_>, columns: &[String]) -> Option<ConsumerId> {
    let mut parts = Vec::with_capacity(columns.len());
    for column in columns {
        let value = match column.as_str() {
            AGE => user.age().map(age_band),
            column => user.value(column).map(str::to_owned),
        };
        if let Some(value) = value {
            parts.push(format!("{column}={value}"));
        }
    }
    if parts.is_empty() {
        return None;
    }
    ConsumerId::new(format!("{PREFIX}{}", parts.join(";"))).ok()
}

fn age_band(age: u32) -> String {
    let next = AGE_BANDS.partition_point(|first| *first <= age);
    let first = AGE_BANDS[next.max(1) - 1];
    match AGE_BANDS.get(next) {
        Some(next) => format!("{first}-{}", next - 1),
        None => format!("{first}+"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(row: &str) -> Option<String> {
        let text = format!("USER_ID,AGE,GENDER,COUNTRY\nfan,{row}\n");
        let users = Users::read(text.as_bytes()).unwrap();
        let columns = ["AGE", "GENDER", "COUNTRY"].map(str::to_owned).to_vec();
        let cohorts = Cohorts::new(Arc::new(users), columns);
        let cohort = cohorts.of(&ConsumerId::new("fan").unwrap());
        cohort.map(|cohort| cohort.to_string())
    }

    #[test]
    fn a_cohort_is_named_by_what_is_known() {
        assert_eq!(
            of("30,F,AR").unwrap(),
            "cohort:AGE=25-34;GENDER=F;COUNTRY=AR"
        );
        assert_eq!(of(",F,").unwrap(), "cohort:GENDER=F");
        assert_eq!(of(",,"), None);
    }

    #[test]
    fn no_band_mixes_minors_and_adults() {
        for (age, band) in [
            (0, "0-12"),
            (12, "0-12"),
            (13, "13-17"),
            (17, "13-17"),
            (18, "18-24"),
            (34, "25-34"),
            (64, "55-64"),
            (65, "65+"),
            (150, "65+"),
        ] {
            assert_eq!(age_band(age), band, "{age}");
        }
    }

    #[test]
    fn a_cohort_whose_name_would_be_too_long_is_none() {
        assert_eq!(of(&format!("30,F,{}", "x".repeat(300))), None);
    }
}
