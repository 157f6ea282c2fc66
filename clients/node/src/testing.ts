import type { Runnable } from './app.js';
import { Claims } from './claims.js';
import { Discard, RetryIn, Snooze } from './errors.js';
import { completed, type Outcome, thrown } from './outcome.js';
import { type Argument, call, type Queryable } from './sql.js';
import { type Claim, Task } from './task.js';
import { type TaskRow, taskRows } from './task_row.js';

export interface DrainOptions {
	/** Tasks of this queue; without it, of all. */
	queue?: string | undefined;
	/** How many attempts at most. */
	maxTasks?: number | undefined;
	/** Also tasks whose time has not come. */
	includeScheduled?: boolean | undefined;
	/** Raise the error of a handler, instead of recording it with the task. */
	raiseErrors?: boolean | undefined;
}

/**
 * Runs waiting tasks whose handlers are in the server, in the transaction of the connection, until none is left.
 * Returns one row for each attempt.
 */
export async function drain(conn: Queryable, options: DrainOptions = {}): Promise<TaskRow[]> {
	const { queue, maxTasks, includeScheduled, raiseErrors } = options;
	const args: Argument[] = [['queue', 'text', queue ?? null]];
	if (maxTasks !== undefined) args.push(['max_tasks', 'integer', String(maxTasks)]);
	if (includeScheduled !== undefined) args.push(['include_scheduled', 'boolean', String(includeScheduled)]);
	if (raiseErrors !== undefined) args.push(['raise_errors', 'boolean', String(raiseErrors)]);
	const { text, values } = call('drain', args);
	return taskRows(conn, `${text} AS t`, values);
}

export interface RunTasksOptions {
	/** Tasks of this queue; null = of all. */
	queue?: string | null | undefined;
	/** How many attempts at most. */
	maxTasks?: number | undefined;
}

/**
 * Runs waiting tasks of the app's types, one after the other, until none is left, and claims and reports them in the
 * transaction of the connection: a rollback undoes all of it. The error of a handler is thrown. Returns the tasks, as
 * they are after that.
 */
export async function runTasks(conn: Queryable, app: Runnable, options: RunTasksOptions = {}): Promise<TaskRow[]> {
	const { queue = 'default', maxTasks = Infinity } = options;
	const claims = new Claims(conn, { queue, types: app.types, lease: 3_600_000, claimedBy: `test ${process.pid}` });
	const rows: TaskRow[] = [];
	while (rows.length < maxTasks) {
		const [claim] = await claims.completeAndClaim([], 1);
		if (!claim) break;
		const outcome = await attempt(app, conn, claim);
		if (outcome) await claims.report([{ id: claim.id, attempt: claim.attempt, ...outcome }]);
		const row = '(SELECT * FROM jobqueue.tasks WHERE id = $1::text::bigint) AS t';
		rows.push(...(await taskRows(conn, row, [claim.id])));
	}
	return rows;
}

async function attempt(app: Runnable, conn: Queryable, claim: Claim): Promise<Outcome | undefined> {
	let completing = false;
	let progress: [fraction: string, message: string | null] | undefined;
	const task = new Task(claim, {
		signal: new AbortController().signal,
		completing: (value) => (completing = value),
		progress: (fraction, message) => (progress = [String(fraction), message ?? null]),
	});
	let outcome: Outcome | undefined;
	try {
		outcome = completed(await app.run(task));
	} catch (error) {
		// these are not failures of the handler: they say what is to become of the task
		if (!(error instanceof Discard || error instanceof Snooze || error instanceof RetryIn)) throw error;
		outcome = thrown(error);
	}
	if (completing) return undefined;
	if (progress)
		await conn.query('SELECT jobqueue.set_progress($1::text::bigint, $2::text::integer, $3::text::real, $4::text)',
			[claim.id, String(claim.attempt), ...progress]);
	return outcome;
}
