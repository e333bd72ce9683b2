//! The Lambda function of $default. What it does is `touchline_push::lambda`'s.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    touchline_push::lambda::default().await
}
