// section: tokio-postgres
use serde_json::json;
use std::env::var;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, NoTls};

fn send_mail(payload: &serde_json::Value) {
    assert_eq!(payload, &json!({"to": "ann@example.org"}));
}

async fn direct(client: &Client) -> Result<i64, Error> {
    // BLOCK 1
    Ok(task_id)
}

async fn pooled(client: &Client) -> Result<i64, Error> {
    // BLOCK 2
    Ok(task_id)
}

async fn work(client: &Client, is_pooled: bool) -> Result<(), Error> {
    let id = if is_pooled { pooled(client).await? } else { direct(client).await? };
    let query = "SELECT status, payload, result FROM jobqueue.tasks WHERE id = $1";
    let row = client.query_typed(query, &[(&id, Type::INT8)]).await?;
    assert_eq!(row[0].get::<_, &str>(0), "completed");
    assert_eq!(row[0].get::<_, serde_json::Value>(1), json!({"to": "ann@example.org"}));
    assert_eq!(row[0].get::<_, serde_json::Value>(2), json!({"sent": true}));
    Ok(())
}

// The notes below the block.
async fn notes(client: &Client) -> Result<(), Error> {
    let task = client.query_one("SELECT jobqueue.enqueue('check', priority => $1)", &[&-5i32]).await?;
    let id: i64 = task.get(0);
    assert!(client.query("SELECT jobqueue.enqueue('check', priority => $1)", &[&-5i64]).await.is_err());
    let claim = "SELECT id, timeout FROM jobqueue.claim(types => ARRAY['check'], lease => $1::text::interval)";
    let task = client.query_one(claim, &[&"1 hour"]).await?;
    assert_eq!(task.get::<_, i64>(0), id);
    assert!(task.try_get::<_, String>(1).is_err());
    assert!(client.query("SELECT jobqueue.complete($1, $2)", &[&id, &1i64]).await.is_err());
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let variable = |name| var(name).expect(name);
    let (host, port) = (variable("PGHOST"), variable("PGPORT"));
    let dsn = format!("host={host} port={port} user={} dbname={}", variable("PGUSER"), variable("PGDATABASE"));
    let (client, connection) = tokio_postgres::connect(&dsn, NoTls).await?;
    tokio::spawn(connection);
    let is_pooled = var("POOLED").is_ok();
    for _ in 0..10 {
        work(&client, is_pooled).await?;
    }
    if is_pooled {
        Ok(())
    } else {
        work(&client, true).await?;
        notes(&client).await
    }
}
