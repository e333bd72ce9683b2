//! The Lambda function of $connect. What it does is `touchline_push::lambda`'s.

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    touchline_push::lambda::connect().await
}
