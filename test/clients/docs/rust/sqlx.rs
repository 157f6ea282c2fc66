// section: sqlx
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

fn send_mail(payload: &serde_json::Value) {
    assert_eq!(payload, &json!({"to": "ann@example.org"}));
}

async fn work(pool: PgPool) -> Result<(), sqlx::Error> {
    // BLOCK 1
    let (status, payload, result): (String, serde_json::Value, serde_json::Value) =
        sqlx::query_as("SELECT status, payload, result FROM jobqueue.tasks WHERE id = $1")
            .bind(task_id)
            .fetch_one(&pool)
            .await?;
    assert_eq!(status, "completed");
    assert_eq!((payload, result), (json!({"to": "ann@example.org"}), json!({"sent": true})));
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), sqlx::Error> {
    let options = PgConnectOptions::new();
    let pool = PgPoolOptions::new().max_connections(2).connect_with(options).await?;
    for _ in 0..10 {
        work(pool.clone()).await?;
    }
    let complete = sqlx::query("SELECT jobqueue.complete($1, $2)").bind(1i64).bind(1i64);
    assert!(complete.execute(&pool).await.is_err(), "attempts as an i64");
    Ok(())
}
