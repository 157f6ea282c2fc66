import type { TaskId } from './enqueue.js';
import { ClaimLost } from './errors.js';
import { call, json, type Queryable } from './sql.js';

/** What a claim has brought. */
export interface Claim {
	id: TaskId;
	/** With id, the name of this claim. */
	attempt: number;
	type: string;
	payload: unknown;
	queue: string;
	metadata: unknown;
	groupKey: string | null;
}

/** What whoever runs a task wants to know about its handler. */
export interface TaskObserver {
	signal: AbortSignal;
	/** True before the handler's transaction completes the task; false if that has failed. */
	completing(completing: boolean): void;
	progress(fraction: number, message?: string): void;
}

/** A task, as its handler gets it. The type of the payload is the handler's word: nothing checks it. */
export class Task<Payload = unknown> {
	readonly id: TaskId;
	readonly type: string;
	readonly payload: Payload;
	/** The number of this attempt: `attempts` in jobqueue.tasks. */
	readonly attempt: number;
	readonly queue: string;
	readonly metadata: unknown;
	readonly groupKey: string | null;
	/** Aborted when the task is cancelled, its claim is lost, or the worker gives it back. */
	readonly signal: AbortSignal;
	readonly #observer: TaskObserver;

	constructor(claim: Claim, observer: TaskObserver) {
		this.id = claim.id;
		this.type = claim.type;
		this.payload = claim.payload as Payload;
		this.attempt = claim.attempt;
		this.queue = claim.queue;
		this.metadata = claim.metadata;
		this.groupKey = claim.groupKey;
		this.signal = observer.signal;
		this.#observer = observer;
	}

	/**
	 * Completes the task in the handler's own transaction, together with what it has written. The worker reports
	 * nothing then. It throws ClaimLost if the claim is no longer the worker's: roll back.
	 */
	async complete(conn: Queryable, result?: unknown): Promise<void> {
		this.#observer.completing(true);
		try {
			const { text, values } = call('complete', [
				['id', 'bigint', this.id],
				['attempt', 'integer', String(this.attempt)],
				['result', 'jsonb', result === undefined ? null : json(result)],
			]);
			const { rows } = await conn.query(`SELECT ${text} AS accepted`, values);
			if (!rows[0].accepted) throw new ClaimLost(this.id);
		} catch (error) {
			this.#observer.completing(false);
			throw error;
		}
	}

	/** Says how much is done, 0 to 1. The worker writes the latest report into the task, soon. */
	progress(fraction: number, message?: string): void {
		if (!(fraction >= 0 && fraction <= 1)) throw new RangeError(`a fraction is 0 to 1, and not ${fraction}`);
		this.#observer.progress(fraction, message);
	}
}
