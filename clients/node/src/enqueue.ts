import { type Argument, call, type Duration, interval, json, type Queryable } from './sql.js';

/** The id of a task: a bigint of the server, as a text, because a JavaScript number above 2^53 is rounded. */
export type TaskId = string;

/** What enqueueMany can be told. What is left out is the server's default. */
export interface EnqueueManyOptions {
	/** Without it: the queue of the type's handler, or `default`. */
	queue?: string | undefined;
	/** Lower numbers run sooner. */
	priority?: number | undefined;
	/** Not before this time. */
	runAt?: Date | undefined;
	/** Not before this much time from now; instead of runAt. */
	delay?: Duration | undefined;
	maxAttempts?: number | undefined;
	/** How long an attempt in the server may take. */
	timeout?: Duration | undefined;
	/** Tasks of a queue with the same key run one after the other. */
	groupKey?: string | undefined;
	/** Tasks that it runs after. */
	after?: readonly TaskId[] | undefined;
	/** What happens when one of these fails or is cancelled. */
	onParentFailure?: 'cancel' | 'run' | 'wait' | undefined;
	/** For the caller's own use: any JSON. */
	metadata?: unknown;
}

/** What enqueue can be told. */
export interface EnqueueOptions extends EnqueueManyOptions {
	/** At most one task of the type has this key at a time. */
	uniqueKey?: string | undefined;
	/** What to do when the key is taken. */
	onConflict?: 'keep' | 'replace' | 'error' | undefined;
	/** How long the key is held: until the task is finished, or until it starts. */
	uniqueScope?: 'live' | 'waiting' | undefined;
}

/** What enqueueUnique can be told. */
export interface EnqueueUniqueOptions extends EnqueueOptions {
	uniqueKey: string;
	/** The key is held for this long, whatever happens to the task. */
	uniqueFor?: Duration | undefined;
}

type Encoders = {
	[K in keyof EnqueueUniqueOptions]-?: [
		argument: string,
		type: string,
		encode: (value: NonNullable<EnqueueUniqueOptions[K]>) => string,
	];
};

const encoders: Encoders = {
	queue: ['queue', 'text', String],
	priority: ['priority', 'integer', String],
	runAt: ['run_at', 'timestamptz', (date) => date.toISOString()],
	delay: ['delay', 'interval', interval],
	maxAttempts: ['max_attempts', 'integer', String],
	timeout: ['timeout', 'interval', interval],
	groupKey: ['group_key', 'text', String],
	after: ['after', 'bigint[]', json],
	onParentFailure: ['on_parent_failure', 'text', String],
	metadata: ['metadata', 'jsonb', json],
	uniqueKey: ['unique_key', 'text', String],
	onConflict: ['on_conflict', 'text', String],
	uniqueScope: ['unique_scope', 'text', String],
	uniqueFor: ['unique_for', 'interval', interval],
};

function argumentsFor(options: object): Argument[] {
	const args: Argument[] = [];
	for (const [name, value] of Object.entries(options)) {
		const encoder = encoders[name as keyof Encoders];
		if (!encoder) throw new TypeError(`there is no option ${name}`);
		const [argument, type, encode] = encoder;
		if (value !== undefined && value !== null) args.push([argument, type, encode(value as never)]);
	}
	return args;
}

function argumentsOf(type: string, payload: unknown, options: object): Argument[] {
	const args: Argument[] = [['type', 'text', type]];
	if (payload !== undefined) args.push(['payload', 'jsonb', json(payload)]);
	return args.concat(argumentsFor(options));
}

/** Adds a task in the transaction of the connection: it runs when that commits, and never if it rolls back. */
export async function enqueue(
	conn: Queryable, type: string, payload?: unknown, options: EnqueueOptions = {},
): Promise<TaskId> {
	const { text, values } = call('enqueue', argumentsOf(type, payload, options));
	const { rows } = await conn.query(`SELECT ${text}::text AS id`, values);
	return rows[0].id;
}

/** Adds a task for each payload, much faster than one call each. Returns their ids in the order of the payloads. */
export async function enqueueMany(
	conn: Queryable, type: string, payloads: readonly unknown[], options: EnqueueManyOptions = {},
): Promise<TaskId[]> {
	const list = `[${payloads.map(json).join(',')}]`;
	const { text, values } = call('enqueue_many',
		[['type', 'text', type], ['payloads', 'jsonb[]', list], ...argumentsFor(options)]);
	const { rows } = await conn.query(
		`SELECT id::text AS id FROM ${text} WITH ORDINALITY AS t(id, n) ORDER BY n`, values);
	return rows.map((row) => row.id);
}

/** Adds a task with a key. isNew is false if the id is that of a task that had the key already. */
export async function enqueueUnique(
	conn: Queryable, type: string, payload: unknown, options: EnqueueUniqueOptions,
): Promise<{ id: TaskId; isNew: boolean }> {
	const { text, values } = call('enqueue_unique', argumentsOf(type, payload, options));
	const { rows } = await conn.query(`SELECT id::text AS id, is_new FROM ${text}`, values);
	return { id: rows[0].id, isNew: rows[0].is_new };
}
