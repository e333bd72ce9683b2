//! Tests of the queue, in paused time.

use futures::future::join_all;

use super::*;
use crate::counters::Counters;

fn budget(limit: f64, concurrency: usize) -> Arc<Budget> {
    Arc::new(Budget::new(
        limit,
        concurrency,
        Counters::default().serving.budget,
    ))
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

/// Takes everything that can be had at once.
async fn drain(budget: &Arc<Budget>) {
    while budget.state().tokens >= 1.0 {
        let token = budget.token(&Rank::new(Priority::Caller), later()).await;
        token.unwrap().spend();
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_go_by_priority_and_then_by_arrival() {
    let budget = budget(10.0, 100);
    drain(&budget).await;
    let order = Mutex::new(Vec::new());
    let ask = async |name: &'static str, priority| {
        let rank = Rank::new(priority);
        budget.token(&rank, later()).await.unwrap().spend();
        order.lock().unwrap().push(name);
    };
    tokio::join!(
        ask("prefetch", Priority::Prefetch),
        ask("refresh", Priority::Refresh),
        ask("push 1", Priority::Push),
        ask("push 2", Priority::Push),
        ask("caller", Priority::Caller),
    );
    let order = order.into_inner().unwrap();
    assert_eq!(order, ["caller", "push 1", "push 2", "refresh", "prefetch"]);
}

#[tokio::test(start_paused = true)]
async fn a_priority_that_rises_moves_its_owner_forward() {
    let budget = budget(10.0, 100);
    drain(&budget).await;
    let (risen, other) = (Rank::new(Priority::Prefetch), Rank::new(Priority::Push));
    let order = Mutex::new(Vec::new());
    let ask = async |name: &'static str, rank: &Rank| {
        budget.token(rank, later()).await.unwrap().spend();
        order.lock().unwrap().push(name);
    };
    tokio::join!(ask("risen", &risen), ask("other", &other), async {
        risen.set(Priority::Caller);
    });
    assert_eq!(order.into_inner().unwrap(), ["risen", "other"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_spent_goes_back() {
    let budget = budget(10.0, 100);
    let token = budget.token(&Rank::new(Priority::Push), later()).await;
    assert!(budget.state().tokens < 1.0);
    drop(token);
    assert!((budget.state().tokens - 1.0).abs() < 1e-6);
    assert_eq!(budget.counters.tokens_given_back.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_the_queue_takes_nothing_and_who_is_too_late_is_told() {
    let budget = budget(1.0, 100);
    drain(&budget).await;
    let soon = Instant::now() + Duration::from_millis(100);
    let (gone, rank) = (Rank::new(Priority::Caller), Rank::new(Priority::Caller));
    let left = tokio::time::timeout_at(soon, budget.token(&gone, later()));
    let late = budget.token(&rank, soon);
    let (left, late) = tokio::join!(left, late);
    assert!(left.is_err());
    assert_eq!(late.unwrap_err(), Denied::TooLate);
    assert_eq!(budget.state().waiting, [0; 4]);
    let began = Instant::now();
    budget.token(&rank, later()).await.unwrap().spend();
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn no_more_questions_are_under_way_than_may_be() {
    let budget = budget(10_000.0, 3);
    let at_once = AtomicU8::new(0);
    let ask = async || {
        let rank = Rank::new(Priority::Push);
        let mut token = budget.token(&rank, later()).await.unwrap();
        token.spend();
        assert!(at_once.fetch_add(1, SeqCst) < 3);
        sleep(Duration::from_millis(10)).await;
        at_once.fetch_sub(1, SeqCst);
    };
    join_all((0..50).map(|_| ask())).await;
}

#[tokio::test(start_paused = true)]
async fn while_there_is_work_the_budget_is_used_and_never_exceeded() {
    let budget = budget(500.0, 10_000);
    let began = Instant::now();
    let ranks: Vec<_> = (0..5_000).map(|_| Rank::new(Priority::Push)).collect();
    join_all(ranks.iter().map(async |rank| {
        budget.token(rank, later()).await.unwrap().spend();
    }))
    .await;
    let rate = 5_000.0 / began.elapsed().as_secs_f64();
    // The burst that the bucket held comes on top: 20 tokens.
    assert!((475.0..=503.0).contains(&rate), "{rate} a second");
}

#[tokio::test(start_paused = true)]
async fn the_wait_that_is_foretold_comes() {
    let budget = budget(100.0, 1_000);
    drain(&budget).await;
    let ranks: Vec<_> = (0..50).map(|_| Rank::new(Priority::Push)).collect();
    let waiting = join_all(ranks.iter().map(|rank| budget.token(rank, later())));
    let foretold = async {
        tokio::task::yield_now().await;
        (budget.wait(Priority::Caller), budget.wait(Priority::Push))
    };
    let (_, (caller, push)) = tokio::join!(waiting, foretold);
    assert!(caller <= Duration::from_millis(20), "{caller:?}");
    assert!((480..=520).contains(&push.as_millis()), "{push:?}");
}
