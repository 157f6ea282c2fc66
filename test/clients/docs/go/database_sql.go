// section: database/sql
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log"

	_ "github.com/jackc/pgx/v5/stdlib"
)

var sent []string

func sendMail(payload json.RawMessage) {
	sent = append(sent, string(payload))
}

func work(ctx context.Context, db *sql.DB) error {
	// BLOCK 1
}

func check(ctx context.Context, db *sql.DB) error {
	if len(sent) != 1 || sent[0] != `{"to": "ann@example.org"}` {
		return fmt.Errorf("sent: %v", sent)
	}
	sent = nil
	var status, to, result string
	last := "SELECT status, payload ->> 'to', result FROM jobqueue.tasks ORDER BY id DESC LIMIT 1"
	err := db.QueryRowContext(ctx, last).Scan(&status, &to, &result)
	if err == nil && (status != "completed" || to != "ann@example.org" || result != `{"sent": true}`) {
		err = fmt.Errorf("%s, %s, %s", status, to, result)
	}
	return err
}

func main() {
	ctx := context.Background()
	db, err := sql.Open("pgx", "POOLER_OPTION")
	for run := 0; err == nil && run < 10; run++ {
		if err = work(ctx, db); err == nil {
			err = check(ctx, db)
		}
	}
	if err != nil {
		log.Fatal(err)
	}
}
