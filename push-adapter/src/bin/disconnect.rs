//! The Lambda function of $disconnect. What it does is `touchline_push::lambda`'s.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    touchline_push::lambda::disconnect().await
}
