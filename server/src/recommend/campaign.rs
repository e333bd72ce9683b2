//! The file that names what is asked, read again and again, so that another campaign takes effect
//! without a restart. A file that cannot be read, or holds something else, changes nothing.

use std::{path::PathBuf, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::personalize::{PersonalizeRecommender, Target};

/// Pause between two looks at the file.
const PAUSE: Duration = Duration::from_secs(2);

/// Follows the file until shutdown.
pub async fn follow(
    path: PathBuf,
    region: String,
    recommender: PersonalizeRecommender,
    shutdown: CancellationToken,
) {
    let following = async {
        let mut last = None;
        loop {
            sleep(PAUSE).await;
            let text = tokio::fs::read_to_string(&path).await.unwrap_or_default();
            if last.as_ref() == Some(&text) {
                continue;
            }
            match Target::parse(text.trim()) {
                Some(target) if target.region() == region => {
                    // Boxed, as it makes whole clients of AWS.
                    if Box::pin(recommender.retarget(target.clone(), None)).await {
                        let arn = target.arn();
                        tracing::info!(arn, "another campaign is asked");
                    }
                }
                _ => tracing::warn!(
                    path = %path.display(),
                    region,
                    "holds no ARN of a campaign or recommender of the region; nothing changes"
                ),
            }
            last = Some(text);
        }
    };
    shutdown.run_until_cancelled(following).await;
}
