import type { TaskId } from './enqueue.js';
import { type Argument, call, type Duration, interval, type Queryable } from './sql.js';

/** A row of jobqueue.tasks. */
export interface TaskRow {
	id: TaskId;
	type: string;
	payload: unknown;
	status: 'pending' | 'scheduled' | 'blocked' | 'processing' | 'completed' | 'failed' | 'cancelled';
	queue: string;
	priority: number;
	createdAt: Date;
	runAt: Date | null;
	finishedAt: Date | null;
	attempts: number;
	maxAttempts: number | null;
	lastError: string | null;
	lastSqlstate: string | null;
	result: unknown;
	metadata: unknown;
	groupKey: string | null;
	uniqueKey: string | null;
	createdBy: string | null;
	claimedBy: string | null;
	/** The failed attempts, oldest first; null if there are none, or if the caller may not see them. */
	failures: { attempt: number; message?: string; sqlstate?: string; [key: string]: unknown }[] | null;
	progress: number | null;
	progressMessage: string | null;
}

// One column for the whole row, with the id as a text, so that nothing rounds it.
const columns = `(to_jsonb(t) || jsonb_build_object('id', t.id::text))::text AS task`;

const date = (text: string | null) => (text === null ? null : new Date(text));

function taskRow(text: string): TaskRow {
	const row = JSON.parse(text);
	return {
		id: row.id,
		type: row.type,
		payload: row.payload,
		status: row.status,
		queue: row.queue,
		priority: row.priority,
		createdAt: new Date(row.created_at),
		runAt: date(row.run_at),
		finishedAt: date(row.finished_at),
		attempts: row.attempts,
		maxAttempts: row.max_attempts,
		lastError: row.last_error,
		lastSqlstate: row.last_sqlstate,
		result: row.result,
		metadata: row.metadata,
		groupKey: row.group_key,
		uniqueKey: row.unique_key,
		createdBy: row.created_by,
		claimedBy: row.claimed_by,
		failures: row.failures,
		progress: row.progress,
		progressMessage: row.progress_message,
	};
}

/** The rows that a function of the extension returns, or rows of its table. */
export async function taskRows(conn: Queryable, from: string, values: (string | null)[]): Promise<TaskRow[]> {
	const { rows } = await conn.query(`SELECT ${columns} FROM ${from} WHERE t.id IS NOT NULL`, values);
	return rows.map((row) => taskRow(row.task));
}

/**
 * Waits until a task is completed, failed or cancelled, and returns it; null when the time is over. The connection is
 * busy meanwhile. The task must have been committed.
 */
export async function waitFor(conn: Queryable, id: TaskId, timeout?: Duration): Promise<TaskRow | null> {
	const args: Argument[] = [['id', 'bigint', id]];
	if (timeout !== undefined) args.push(['timeout', 'interval', interval(timeout)]);
	const { text, values } = call('wait_for', args);
	return (await taskRows(conn, `${text} AS t`, values))[0] ?? null;
}
