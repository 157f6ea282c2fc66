import type { TaskId } from './enqueue.js';
import { describe, sqlstate } from './errors.js';
import type { Report } from './outcome.js';
import { type Argument, call, type Queryable } from './sql.js';
import type { Claim } from './task.js';

/** How a worker claims. */
export interface ClaimSettings {
	queue: string | null;
	types: string[];
	/** Milliseconds. */
	lease: number;
	/** Another one for each worker: by this name it finds claims whose answer was lost. */
	claimedBy: string;
}

type ClaimName = { id: TaskId; attempt: number };
type Completed = Report & { how: 'complete' };

const columns = `id::text AS id, attempts AS attempt, type, payload::text AS payload, queue, metadata::text AS metadata,
	group_key`;

function claimOf(row: any): Claim {
	return {
		id: row.id,
		attempt: Number(row.attempt),
		type: row.type,
		payload: row.payload === null ? null : JSON.parse(row.payload),
		queue: row.queue,
		metadata: row.metadata === null ? null : JSON.parse(row.metadata),
		groupKey: row.group_key,
	};
}

/** An error that another attempt to store the same data would give again, such as a text that PostgreSQL refuses. */
const isAboutTheData = (error: unknown) => /^(22|54)/.test(sqlstate(error) ?? '');

function namesOf(claims: ClaimName[]): string {
	return JSON.stringify(claims.map(({ id, attempt }) => ({ id, attempt })));
}

/** The statements of a worker, on one connection. */
export class Claims {
	readonly #conn: Queryable;
	readonly #settings: ClaimSettings;

	constructor(conn: Queryable, settings: ClaimSettings) {
		this.#conn = conn;
		this.#settings = settings;
	}

	/** Reports completed tasks and takes the next ones, at most `room`, in one transaction. */
	async completeAndClaim(done: Completed[], room: number): Promise<Claim[]> {
		try {
			return await this.#completeAndClaim(done, room);
		} catch (error) {
			if (!isAboutTheData(error) || done.length === 0) throw error;
			await this.report(done); // nothing was completed, and one of them is the cause
			return await this.#completeAndClaim([], room);
		}
	}

	async #completeAndClaim(done: Completed[], room: number): Promise<Claim[]> {
		const { queue, types, lease, claimedBy } = this.#settings;
		const args: Argument[] = [
			['ids', 'bigint[]', JSON.stringify(done.map(({ id }) => id))],
			['attempts', 'integer[]', JSON.stringify(done.map(({ attempt }) => attempt))],
			['results', 'jsonb[]', `[${done.map(({ result }) => result ?? 'null').join(',')}]`],
			['queue', 'text', queue],
			['max_tasks', 'integer', String(room)],
			['lease', 'interval', `${lease} milliseconds`],
			['types', 'text[]', JSON.stringify(types)],
			['claimed_by', 'text', claimedBy],
		];
		const { text, values } = call('complete_and_claim', args);
		const { rows } = await this.#conn.query(`SELECT ${columns} FROM ${text}`, values);
		return rows.map(claimOf);
	}

	/** Reports ends of any kind, in one transaction. Of what the server refuses to store, the refusal is stored. */
	async report(reports: Report[]): Promise<void> {
		try {
			await this.#report(reports);
		} catch (error) {
			if (!isAboutTheData(error)) throw error;
			if (reports.length > 1) {
				for (const report of reports) await this.report([report]);
			} else {
				const { id, attempt, how } = reports[0]!;
				const refusal = `the end of this attempt (${how}) could not be stored: ${describe(error)}`;
				await this.#report([{ id, attempt, how: 'fail', error: refusal }]);
			}
		}
	}

	async #report(reports: Report[]): Promise<void> {
		await this.#conn.query(`
			SELECT CASE how
				WHEN 'complete' THEN jobqueue.complete(id, attempt, result::jsonb)
				WHEN 'fail' THEN jobqueue.fail(id, attempt, error, sqlstate, delay) IS NOT NULL
				WHEN 'discard' THEN jobqueue.discard(id, attempt, error)
				WHEN 'snooze' THEN jobqueue.snooze(id, attempt, delay)
				WHEN 'release' THEN jobqueue.release(id, attempt)
			END
			FROM jsonb_to_recordset($1::text::jsonb)
				AS r(how text, id bigint, attempt integer, result text, error text, sqlstate text, delay interval)`,
		[JSON.stringify(reports)]);
	}

	/** Extends the leases of claims, and returns the ids of those that are lost. */
	async extend(claims: ClaimName[]): Promise<Set<string>> {
		const { rows } = await this.#conn.query(`
			SELECT id::text AS id FROM jsonb_to_recordset($1::text::jsonb) AS r(id bigint, attempt integer)
			WHERE NOT jobqueue.extend_lease(id, attempt, $2::text::interval)`,
		[namesOf(claims), `${this.#settings.lease} milliseconds`]);
		return new Set(rows.map((row) => row.id));
	}

	async progress(reports: (ClaimName & { fraction: number; message?: string | undefined })[]): Promise<void> {
		try {
			await this.#conn.query(`
				SELECT jobqueue.set_progress(id, attempt, fraction, message) FROM jsonb_to_recordset($1::text::jsonb)
					AS r(id bigint, attempt integer, fraction real, message text)`,
			[JSON.stringify(reports)]);
		} catch (error) {
			if (!isAboutTheData(error)) throw error;
			// no more than a hint: a text that cannot be stored is left out
			if (reports.length > 1) for (const report of reports) await this.progress([report]);
		}
	}

	/** The claims that the server knows of: after an interruption, the answer with some of them may have been lost. */
	async held(): Promise<Claim[]> {
		const { rows } = await this.#conn.query(`
			SELECT ${columns} FROM jobqueue.tasks
			WHERE status = 'processing' AND lease_expires_at > now() AND claimed_by = $1::text`,
		[this.#settings.claimedBy]);
		return rows.map(claimOf);
	}
}
