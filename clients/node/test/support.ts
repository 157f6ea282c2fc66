// What the tests share. PGHOST, PGPORT, PGUSER (a superuser) and PGDATABASE lead to the server, which they may restart.
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type App, type TaskRow, Worker, type WorkerOptions } from 'jobqueue-pg';
import pg from 'pg';

export const patience = 60_000;
export const packageRoot = fileURLToPath(new URL('..', import.meta.url));
/** The role of the workers: it has the levels that the README names, and no more. */
export const workerRole = 'node_worker';

export const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Waits until a condition holds, and returns what it gives. */
export async function until<T>(what: string, condition: () => T | Promise<T>): Promise<NonNullable<T>> {
	const deadline = Date.now() + patience;
	for (;;) {
		const value = await condition();
		if (value) return value;
		if (Date.now() > deadline) assert.fail(`not within ${patience} ms: ${what}`);
		await sleep(20);
	}
}

/** A promise, and the functions that settle it. */
export function gate<T = void>() {
	let open!: (value: T) => void;
	let fail!: (error: Error) => void;
	const opened = new Promise<T>((resolve, reject) => {
		open = resolve;
		fail = reject;
	});
	return { opened, open, fail };
}

let queues = 0;
/** The name of a queue that no other test uses. */
export const newQueue = () => `node ${process.pid} ${++queues}`;

/** A pool for the file's tests. A server that restarts must not end the tests. */
export const pool = new pg.Pool({ max: 4 });
pool.on('error', () => {});
pool.on('connect', (client) => client.on('error', () => {}));

export async function sql(text: string, values: unknown[] = []): Promise<any[]> {
	return (await pool.query(text, values)).rows;
}

export async function taskRow(id: string): Promise<any> {
	return (await sql('SELECT *, id::text AS id FROM jobqueue.tasks WHERE id = $1', [id]))[0];
}

export async function untilStatus(id: string, status: TaskRow['status']): Promise<any> {
	return until(`task ${id} is ${status}`, async () => {
		const row = await taskRow(id);
		return row?.status === status && row;
	});
}

/** A handler of fixtures/app.ts runs; a task that is processing may still be on its way to the worker. */
export async function untilStarted(id: string): Promise<void> {
	await until(`the handler of task ${id} runs`, async () => (await taskRow(id)).progress_message === 'started');
}

/** To be called once in each file. All ids are above 2^53, where a JavaScript number is rounded. */
export function setUp(): void {
	before(async () => {
		await sql(`
			CREATE EXTENSION IF NOT EXISTS jobqueue;
			SELECT setval('jobqueue.tasks_id_seq', greatest(last_value, 9007199254740992)) FROM jobqueue.tasks_id_seq;
			CREATE TABLE IF NOT EXISTS done (n integer);
			DO $$ BEGIN
				IF to_regrole('${workerRole}') IS NULL THEN CREATE ROLE ${workerRole} LOGIN; END IF;
			END $$;
			SELECT jobqueue.grant_access('${workerRole}', 'producer');
			SELECT jobqueue.grant_access('${workerRole}', 'consumer');
			GRANT ALL ON done TO ${workerRole};`);
	});
	after(() => pool.end());
}

/** One connection in a transaction that is rolled back. */
export async function inTransaction<T>(run: (client: pg.PoolClient) => Promise<T>): Promise<T> {
	const client = await pool.connect();
	try {
		await client.query('BEGIN');
		return await run(client);
	} finally {
		await client.query('ROLLBACK');
		client.release();
	}
}

export type TestWorker = { worker: Worker; log: string[]; stopped: Promise<void>; stop(): Promise<void> };

/** Starts a worker in this process. */
export function startWorker(app: App<any>, options: WorkerOptions, config: pg.ClientConfig | string = {}): TestWorker {
	const log: string[] = [];
	const conninfo = typeof config === 'string' ? config : { user: workerRole, ...config };
	const worker = new Worker(app, conninfo, { ...options, log: (line) => log.push(line) });
	const stopped = worker.run();
	return {
		worker,
		log,
		stopped,
		async stop() {
			worker.stop();
			await stopped;
		},
	};
}

/** Runs a worker while `run` runs. */
export async function withWorker(
	app: App<any>, options: WorkerOptions, run: (started: TestWorker) => Promise<void>,
	config?: pg.ClientConfig | string,
): Promise<void> {
	const started = startWorker(app, options, config);
	try {
		await run(started);
	} finally {
		await started.stop();
	}
}

/** A worker that the command line has started, with the handlers of fixtures/app.ts. */
export class WorkerProcess {
	output = '';
	readonly child: ChildProcess;
	readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;

	constructor(args: string[], env: NodeJS.ProcessEnv = {}) {
		const command = [join(packageRoot, 'dist/cli.js'), ...args];
		const cwd = join(packageRoot, 'build');
		this.child = spawn(process.execPath, command, { env: { ...process.env, ...env }, cwd });
		for (const stream of [this.child.stdout, this.child.stderr])
			stream?.setEncoding('utf8').on('data', (text: string) => (this.output += text));
		this.ended = new Promise((resolve) => this.child.on('close', (code, signal) => resolve({ code, signal })));
	}

	static withApp(queue: string, ...options: string[]): WorkerProcess {
		return new WorkerProcess(['worker', './fixtures/app.js', '--queue', queue, ...options], { PGUSER: workerRole });
	}

	kill(signal: NodeJS.Signals): void {
		this.child.kill(signal);
	}

	async says(text: string): Promise<void> {
		await until(`the worker says ${text}; it said ${this.output}`, () => this.output.includes(text));
	}

	/** Sends a signal, and expects an end with success. */
	async stops(signal: NodeJS.Signals): Promise<void> {
		this.kill(signal);
		const { code } = await this.ended;
		assert.equal(code, 0, this.output);
	}
}

/** Runs a command as the owner of the server, which is never root. */
export function asServerUser(command: string, ...args: string[]): string {
	const directory = process.env['PGHOST']!;
	const whole = [command, ...args];
	if (process.getuid?.() === 0) {
		const { uid } = statSync(join(directory, 'data'));
		const owner = spawnSync('id', ['-nu', String(uid)], { encoding: 'utf8' }).stdout.trim();
		whole.unshift('runuser', '-u', owner, '--');
	}
	const { status, stdout, stderr, error } = spawnSync(whole[0]!, whole.slice(1), {
		cwd: '/', encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'],
	});
	assert.equal(status, 0, `${whole.join(' ')}: ${error ?? stdout + stderr}`);
	return stdout;
}

/** A new directory of the owner of the server. */
export function ownedByServerUser(): string {
	return asServerUser('mktemp', '-d', join(tmpdir(), 'node-client.XXXXXX')).trim();
}

/** Starts, stops or restarts the server. */
export function pgCtl(action: string, ...options: string[]): void {
	const directory = process.env['PGHOST']!;
	controlServer(join(directory, 'data'), join(directory, 'log'), action, ...options);
}

export function controlServer(data: string, log: string, action: string, ...options: string[]): void {
	asServerUser('pg_ctl', '-D', data, '-l', log, '-w', '-t', '120', '-s', action, ...options);
}
