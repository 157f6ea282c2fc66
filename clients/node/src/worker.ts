import { hostname } from 'node:os';
import type pg from 'pg';
import type { Runnable } from './app.js';
import { Bell } from './bell.js';
import { Claims } from './claims.js';
import { type Conninfo, connect, disconnect, targets } from './connect.js';
import { Delay } from './delay.js';
import { ClaimLost, describe, sqlstate, WorkerStopped } from './errors.js';
import { Listener } from './listener.js';
import { completed, type Outcome, type Report, thrown } from './outcome.js';
import { type Claim, Task } from './task.js';

/** What a worker can be told. All lengths of time are milliseconds. */
export interface WorkerOptions {
	/** The queue it takes tasks from; null = all queues in turn. */
	queue?: string | null | undefined;
	/** How many handlers run at once. */
	concurrency?: number | undefined;
	/** For how long a task is claimed. The claim is extended while its handler runs. */
	lease?: number | undefined;
	/** How often it looks for tasks that it has not heard of. */
	pollInterval?: number | undefined;
	/** How long running handlers may go on when it stops. */
	grace?: number | undefined;
	/** Whether it has a second connection, on which it hears of new tasks. */
	listen?: boolean | undefined;
	/** The beginning of its name in `claimed_by`. */
	name?: string | undefined;
	/** Gets a line when something has changed: connected, the connection lost, stopped. */
	log?: ((message: string) => void) | undefined;
}

const defaults = { queue: 'default', concurrency: 10, lease: 300_000, pollInterval: 30_000, grace: 8000, listen: true };
// a cancelled task learns of it when its lease is extended
const longestBeat = 10_000;
// how long it tries to report, after the grace, to a server that does not answer
const lastWords = 10_000;

interface Running {
	claim: Claim;
	abort: AbortController;
	completing: boolean;
	progress?: { fraction: number; message: string | undefined } | undefined;
}

/** Runs the tasks of an App: claims them, calls their handlers, and reports how they ended. */
export class Worker {
	readonly #app: Runnable;
	readonly #configs: pg.ClientConfig[];
	readonly #options: typeof defaults & { queue: string | null };
	readonly #log: (message: string) => void;
	readonly #claimedBy: string;
	readonly #bell = new Bell();
	readonly #stopBell = new Bell();
	readonly #delay = new Delay();
	readonly #running = new Set<Running>();
	readonly #ended = new Set<Report>();
	readonly #listener: Listener | undefined;
	#client: pg.Client | undefined;
	#hungry = true; // there may be tasks
	#unanswered = false; // a claim was sent, and it is not known what it has brought
	#stopping = false;
	#overdue = false; // stopping takes longer than it may
	#giveUp = () => {};
	#timers: NodeJS.Timeout[] = [];
	#said = '';

	constructor(app: Runnable, conninfo?: Conninfo, options: WorkerOptions = {}) {
		const given = Object.entries(options).filter(([, value]) => value !== undefined);
		this.#options = { ...defaults, ...Object.fromEntries(given) };
		const { concurrency, lease, pollInterval, grace, queue } = this.#options;
		if (!Number.isInteger(concurrency) || concurrency < 1) throw new RangeError('concurrency must be 1 or more');
		if (!(lease > 0)) throw new RangeError('lease must be above 0');
		if (!(pollInterval > 0)) throw new RangeError('pollInterval must be above 0');
		if (!(grace >= 0)) throw new RangeError('grace must not be negative');
		if (app.types.length === 0) throw new TypeError('the app has no handlers');
		this.#app = app;
		this.#configs = targets(conninfo);
		this.#log = options.log ?? (() => {});
		const mark = Math.random().toString(36).slice(2, 10);
		this.#claimedBy = `${options.name ?? hostname()} ${process.pid} ${mark}`;
		if (this.#options.listen)
			this.#listener = new Listener(this.#configs, queue, pollInterval, () => this.#look(), this.#log);
	}

	/** Works until stop() is called. Errors of handlers and of connections do not end it. */
	async run(): Promise<void> {
		const overdue = new Promise<void>((resolve) => (this.#giveUp = resolve));
		const listening = this.#listener?.run();
		await Promise.race([this.#work(), overdue]);
		this.#timers.forEach(clearTimeout);
		if (this.#overdue && this.#client) await disconnect(this.#client);
		this.#listener?.stop();
		await listening;
		for (const { id } of this.#ended) this.#log(`task ${id} is left unreported: its lease ends`);
		this.#log('stopped');
	}

	async #work(): Promise<void> {
		while (!this.#finished)
			try {
				await this.#serve();
			} catch (error) {
				if (this.#finished) return;
				this.#say(describe(error));
				await this.#delay.wait(this.#stopBell);
			}
	}

	/** Claims nothing more, lets handlers end for the grace, and gives back what is not done. run() returns then. */
	stop(): void {
		if (this.#stopping) return;
		this.#stopping = true;
		this.#log('stopping');
		const { grace } = this.#options;
		this.#timers = [
			setTimeout(() => this.#giveBack(), grace),
			setTimeout(() => {
				this.#overdue = true;
				this.#giveUp();
			}, grace + lastWords),
		];
		this.#listener?.stop();
		this.#delay.reset();
		this.#wake();
	}

	get #finished(): boolean {
		if (this.#overdue) return true;
		return this.#stopping && this.#running.size === 0 && this.#ended.size === 0 && !this.#unanswered;
	}

	#wake(): void {
		this.#bell.ring();
		this.#stopBell.ring();
	}

	#look(): void {
		this.#hungry = true;
		this.#bell.ring();
	}

	#say(message: string): void {
		if (this.#said !== message) this.#log(message);
		this.#said = message;
	}

	// One connection, until it breaks or the worker has stopped.
	async #serve(): Promise<void> {
		const { pollInterval, lease } = this.#options;
		const beat = Math.min(lease / 3, longestBeat);
		let broken: Error | undefined;
		const client = await connect(this.#configs, (error) => {
			broken = error;
			this.#bell.ring();
		});
		this.#client = client;
		try {
			const claims = new Claims(client, { ...this.#options, types: this.#app.types, claimedBy: this.#claimedBy });
			if (this.#unanswered) this.#adopt(await claims.held());
			let nextLook = 0;
			let nextBeat = 0;
			while (!this.#finished) {
				if (broken) throw broken;
				if (Date.now() >= nextLook) {
					this.#hungry = true;
					nextLook = Date.now() + pollInterval;
				}
				if (Date.now() >= nextBeat) {
					await this.#extend(claims);
					nextBeat = Date.now() + beat;
				}
				await this.#progress(claims);
				if (await this.#exchange(claims)) continue;
				this.#say('connected');
				this.#delay.reset();
				if (!this.#finished) await this.#bell.wait(Math.min(nextLook, nextBeat) - Date.now());
			}
		} finally {
			await disconnect(client);
		}
	}

	// Reports what has ended, and takes what there is. Returns whether something was taken: then there may be more.
	async #exchange(claims: Claims): Promise<boolean> {
		const ended = [...this.#ended];
		const isDone = (report: Report): report is Report & { how: 'complete' } => report.how === 'complete';
		const room = this.#stopping ? 0 : this.#options.concurrency - this.#running.size;
		const done = room > 0 ? ended.filter(isDone) : [];
		const others = ended.filter((report) => !done.includes(report as (typeof done)[number]));
		if (others.length > 0) {
			await claims.report(others);
			others.forEach((report) => this.#ended.delete(report));
		}
		if (room === 0 || (done.length === 0 && !this.#hungry)) return false;
		this.#hungry = false; // what is announced from now on may be too late for this claim
		const taken = await this.#claim(() => claims.completeAndClaim(done, room));
		done.forEach((report) => this.#ended.delete(report));
		for (const claim of taken) this.#start(claim);
		this.#hungry ||= taken.length > 0;
		return taken.length > 0;
	}

	async #claim(send: () => Promise<Claim[]>): Promise<Claim[]> {
		this.#unanswered = true;
		try {
			const taken = await send();
			this.#unanswered = false;
			return taken;
		} catch (error) {
			// an error of the statement has undone it; the end of the session (57) may have come after the commit
			if (!/^(57|undefined)/.test(String(sqlstate(error)))) this.#unanswered = false;
			throw error;
		}
	}

	// The answer that was lost with a connection may have brought tasks: they are ours, but nobody has started them.
	#adopt(held: Claim[]): void {
		this.#unanswered = false;
		const known = new Set<string>();
		const name = ({ id, attempt }: { id: string; attempt: number }) => `${id} ${attempt}`;
		for (const { claim } of this.#running) known.add(name(claim));
		for (const report of this.#ended) known.add(name(report));
		for (const claim of held) if (!known.has(name(claim))) this.#start(claim);
	}

	#start(claim: Claim): void {
		if (this.#stopping) {
			this.#end(claim, { how: 'release' });
			return;
		}
		const running: Running = { claim, abort: new AbortController(), completing: false };
		this.#running.add(running);
		void this.#run(running);
	}

	async #run(running: Running): Promise<void> {
		const { claim, abort } = running;
		const task = new Task(claim, {
			signal: abort.signal,
			completing: (completing) => (running.completing = completing),
			progress: (fraction, message) => {
				running.progress = { fraction, message };
				this.#bell.ring();
			},
		});
		let outcome: Outcome | undefined;
		try {
			outcome = completed(await this.#app.run(task));
			if (running.completing) outcome = undefined;
		} catch (error) {
			if (!(error instanceof ClaimLost)) outcome = thrown(error);
		}
		// given back or lost: what comes after that does not count
		if (this.#running.delete(running) && outcome && !abort.signal.aborted) this.#end(claim, outcome);
		this.#bell.ring();
	}

	#end({ id, attempt }: Claim, outcome: Outcome): void {
		this.#ended.add({ id, attempt, ...outcome });
	}

	#giveBack(): void {
		for (const running of this.#running) {
			if (!running.abort.signal.aborted) this.#end(running.claim, { how: 'release' });
			running.abort.abort(new WorkerStopped());
		}
		this.#running.clear();
		this.#wake();
	}

	// A claim that its handler is completing is locked by the handler's transaction: leave it alone.
	async #extend(claims: Claims): Promise<void> {
		const extended = [...this.#running].filter(({ completing, abort }) => !completing && !abort.signal.aborted);
		if (extended.length === 0) return;
		const lost = await claims.extend(extended.map(({ claim }) => claim));
		for (const { claim, abort, completing } of extended)
			if (lost.has(claim.id) && !completing) abort.abort(new ClaimLost(claim.id));
	}

	async #progress(claims: Claims): Promise<void> {
		const reports = [...this.#running].flatMap(({ claim: { id, attempt }, progress, completing }) =>
			progress && !completing ? [{ id, attempt, ...progress }] : []);
		for (const running of this.#running) running.progress = undefined;
		if (reports.length > 0) await claims.progress(reports);
	}
}
