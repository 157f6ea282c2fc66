import type { Duration } from './sql.js';

/** A handler throws it to end its task for good, as failed, even if it has attempts left. */
export class Discard extends Error {
	override name = 'Discard';

	constructor(readonly reason: string) {
		super(reason);
	}
}

/** A handler throws it to put its task off. That costs no attempt. */
export class Snooze extends Error {
	override name = 'Snooze';

	constructor(readonly delay: Duration) {
		super('the task is put off');
	}
}

/** A handler throws it when the attempt has failed, to say when the next one is made. */
export class RetryIn extends Error {
	override name = 'RetryIn';

	constructor(readonly delay: Duration, error: unknown = 'to be tried again') {
		super(describe(error), { cause: error });
	}
}

/** The claim is no longer the worker's: its lease has ended, or the task was cancelled. */
export class ClaimLost extends Error {
	override name = 'ClaimLost';

	constructor(id: string) {
		super(`task ${id} was cancelled, or its lease has ended`);
	}
}

/** The worker stops, and gives the task back. */
export class WorkerStopped extends Error {
	override name = 'WorkerStopped';

	constructor() {
		super('the worker has been told to stop');
	}
}

/** The text of whatever was thrown. */
export function describe(error: unknown): string {
	try {
		if (error instanceof AggregateError && !error.message) return error.errors.map(describe).join('; ');
		if (error instanceof Error) return error.message || error.name;
		return String(error);
	} catch {
		return 'an error without a text';
	}
}

/** The SQLSTATE of an error of the server, also if a library has wrapped it. */
export function sqlstate(error: unknown): string | undefined {
	for (let depth = 0; error instanceof Error && depth < 10; depth++, error = error.cause)
		// the codes of Node's own errors look alike (EPIPE), but these have no severity
		if ('code' in error && 'severity' in error && /^[0-9A-Z]{5}$/.test(String(error.code)))
			return String(error.code);
	return undefined;
}
