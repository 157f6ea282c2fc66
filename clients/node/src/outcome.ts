import type { TaskId } from './enqueue.js';
import { describe, Discard, RetryIn, Snooze, sqlstate } from './errors.js';
import { interval } from './sql.js';

/** How an attempt has ended. Texts only: it may be stored long after, over another connection. */
export type Outcome =
	| { how: 'complete'; result: string | null }
	| { how: 'fail'; error: string; sqlstate?: string | undefined; delay?: string }
	| { how: 'discard'; error: string }
	| { how: 'snooze'; delay: string }
	| { how: 'release' };

/** An outcome, and the claim that it belongs to. */
export type Report = { id: TaskId; attempt: number } & Outcome;

/** The outcome when a handler has returned. A result that is no JSON is an error: it would be lost without a word. */
export function completed(result: unknown): Outcome {
	return { how: 'complete', result: JSON.stringify(result) ?? null };
}

/** The outcome when a handler has thrown. */
export function thrown(error: unknown): Outcome {
	if (error instanceof Discard) return { how: 'discard', error: error.reason };
	if (error instanceof Snooze) return { how: 'snooze', delay: interval(error.delay) };
	const failed = { how: 'fail' as const, error: describe(error), sqlstate: sqlstate(error) };
	return error instanceof RetryIn ? { ...failed, delay: interval(error.delay) } : failed;
}
