// section: pgx
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var sent []map[string]any

func sendMail(payload map[string]any) {
	sent = append(sent, payload)
}

func work(ctx context.Context, conn *pgx.Conn) error {
	// BLOCK 1
	return check(ctx, conn, taskID)
}

func check(ctx context.Context, conn *pgx.Conn, id int64) error {
	if len(sent) != 1 || sent[0]["to"] != "ann@example.org" {
		return fmt.Errorf("sent: %v", sent)
	}
	sent = nil
	var status, to string
	var result map[string]any
	err := conn.QueryRow(ctx, "SELECT status, payload ->> 'to', result FROM jobqueue.tasks WHERE id = $1", id).
		Scan(&status, &to, &result)
	if err == nil && (status != "completed" || to != "ann@example.org" || result["sent"] != true) {
		err = fmt.Errorf("task %d: %s, %s, %v", id, status, to, result)
	}
	return err
}

// The notes below the block.
func notes(ctx context.Context, conn *pgx.Conn) error {
	type mail struct {
		To string `json:"to"`
	}
	text := `{"to": "ann"}`
	for _, payload := range []any{mail{"ann"}, []int{1, 2}, []mail{{"ann"}}, text, []byte(text)} {
		_, err := conn.Exec(ctx, "SELECT jobqueue.enqueue('check', $1, timeout => $2)", payload, time.Hour)
		if err != nil {
			return fmt.Errorf("%v: %w", payload, err)
		}
	}
	var refused *pgconn.PgError
	_, err := conn.Exec(ctx, "SELECT jobqueue.enqueue('check', $1)", "no JSON")
	if !errors.As(err, &refused) || refused.Code != "22P02" {
		return fmt.Errorf("a string that is no JSON: %w", err)
	}
	rows, err := conn.Query(ctx, "SELECT payload FROM jobqueue.claim(max_tasks => 100, types => $1, lease => $2)",
		[]string{"check"}, time.Minute)
	if err != nil {
		return err
	}
	payloads, err := pgx.CollectRows(rows, pgx.RowTo[any])
	ann := map[string]any{"to": "ann"}
	expected := []any{ann, []any{1.0, 2.0}, []any{ann}, ann, ann}
	if err == nil && !reflect.DeepEqual(payloads, expected) {
		err = fmt.Errorf("payloads: %v", payloads)
	}
	return err
}

func main() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, "POOLER_OPTION")
	for run := 0; err == nil && run < 10; run++ {
		err = work(ctx, conn)
	}
	if err == nil {
		err = notes(ctx, conn)
	}
	if err != nil {
		log.Fatal(err)
	}
}
