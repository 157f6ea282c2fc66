// A worker outside the server. It enqueues a task every five seconds, and does what it finds in the queue.
//
//   npm ci
//   node demo.ts                              Node 22.18 or later runs TypeScript as it is
//   npm run build && node dist/demo.js        earlier ones
//
// PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE lead to the server. The role needs two levels of access:
//   SELECT jobqueue.grant_access('role', 'producer'), jobqueue.grant_access('role', 'consumer');
//
// INTERVAL_MS=5000   how often it enqueues a task; 0: never
// WORK_MS=200        how long it works on one
// GRACE_MS=8000      how long it goes on with that when it is told to stop, before it gives the task back
//
// Ctrl-C and SIGTERM (docker stop, systemd) tell it to stop: it finishes the task in hand, or gives it back.

import pg from 'pg';

const type = 'demo';
const queue = 'demo';
const lease = '1 minute';
const interval = Number(process.env.INTERVAL_MS ?? 5000);
const workTime = Number(process.env.WORK_MS ?? 200);
const grace = Number(process.env.GRACE_MS ?? 8000); // less than what docker stop leaves it, 10 s
// how long it waits for a notification before it looks by itself: expired leases of others are not announced
const longestWait = 30_000;
const longestRetry = 10_000;

type Task = {
	id: string; // bigint
	attempts: number; // with id, the name of this claim
	payload: { n?: number };
	outcome?: { result: object } | { error: string } | 'given up'; // there once the work is done
};

// Whoever waits is woken by ring(). Rung while nobody waits, it ends the next wait at once.
class Bell {
	private rung = false;
	private wake = () => {};

	ring() {
		this.rung = true;
		this.wake();
	}

	silence() {
		this.rung = false;
	}

	async wait(ms: number) {
		if (!this.rung && ms > 0)
			await new Promise<void>((resolve) => {
				const timer = setTimeout(resolve, ms);
				this.wake = () => {
					clearTimeout(timer);
					resolve();
				};
			});
		this.silence();
	}
}

const bell = new Bell();
let stopping = false;
let giveUp = () => {};
const patience = new Promise<'given up'>((resolve) => (giveUp = () => resolve('given up')));
let retryIn = 0; // ms; grows with every vain attempt to connect
let inHand: Task | undefined; // claimed, and not yet reported
let enqueued = 0;
let nextEnqueue = interval > 0 ? Date.now() : Infinity;

const say = (text: string) => console.log(`${new Date().toISOString()} ${text}`);

async function work(task: Task): Promise<object> {
	const n = task.payload.n ?? 0;
	say(`working on task ${task.id}, attempt ${task.attempts}: the square of ${n}`);
	await new Promise((resolve) => setTimeout(resolve, workTime));
	return { square: n * n };
}

// Works on the task in hand and reports how it went. If the connection breaks, the task stays in hand, and the report
// is sent over the next one: a claim holds until its lease ends, whatever happens to connection or server.
async function finish(client: pg.Client, task: Task) {
	task.outcome ??= await Promise.race([
		work(task).then((result) => ({ result }), (error) => ({ error: String(error) })),
		patience,
	]);
	if (task.outcome === 'given up') {
		const { rows } = await client.query('SELECT jobqueue.release($1, $2) AS accepted', [task.id, task.attempts]);
		say(rows[0].accepted ? `gave task ${task.id} back` : `task ${task.id} is not ours any more`);
	} else if ('result' in task.outcome) {
		const { rows } = await client.query('SELECT jobqueue.complete($1, $2, $3) AS accepted',
			[task.id, task.attempts, task.outcome.result]);
		say(rows[0].accepted ? `completed task ${task.id}` : `task ${task.id} is not ours any more`);
	} else {
		const { rows } = await client.query('SELECT jobqueue.fail($1, $2, $3) AS status',
			[task.id, task.attempts, task.outcome.error]);
		say(`task ${task.id} failed (${task.outcome.error}), and is ${rows[0].status ?? 'not ours any more'}`);
	}
	inHand = undefined;
}

async function enqueue(client: pg.Client) {
	nextEnqueue = Date.now() + interval;
	const { rows } = await client.query('SELECT jobqueue.enqueue($1, $2, queue => $3) AS id',
		[type, { n: ++enqueued }, queue]);
	say(`enqueued task ${rows[0].id}`);
}

// One connection, until it breaks or the process is to stop.
async function serve() {
	const client = new pg.Client({ application_name: 'demo.ts', connectionTimeoutMillis: 5000, keepAlive: true });
	let broken: Error | undefined;
	client.on('notification', () => bell.ring());
	client.on('error', (error) => {
		broken = error;
		bell.ring();
	});
	try {
		await client.connect();
		await client.query('LISTEN task_queue'); // before the first claim, so that nothing falls in between
		say('connected');
		retryIn = 0;
		for (;;) {
			if (broken) throw broken;
			if (inHand) await finish(client, inHand);
			if (stopping) return;
			if (Date.now() >= nextEnqueue) await enqueue(client);
			const { rows } = await client.query(
				'SELECT id, attempts, payload FROM jobqueue.claim($1, lease => $2, types => ARRAY[$3])',
				[queue, lease, type]);
			inHand = rows[0];
			if (!inHand) await bell.wait(Math.min(longestWait, nextEnqueue - Date.now()));
		}
	} finally {
		await client.end().catch(() => {});
	}
}

// Finish the task in hand, or give it back, and leave. The same signal again ends the process at once.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
	process.once(signal, () => {
		say('stopping');
		stopping = true;
		bell.ring();
		setTimeout(giveUp, grace).unref();
	});

while (!stopping) {
	try {
		await serve();
	} catch (error) {
		if (stopping) break;
		retryIn = Math.min(Math.max(2 * retryIn, 250), longestRetry);
		say(`${(error as Error).message}: connecting again in ${retryIn} ms`);
		bell.silence();
		await bell.wait(retryIn);
	}
}
if (inHand) say(`left task ${inHand.id} unreported: somebody gets it when the lease ends`);
say('stopped');
process.exit(0); // whatever work() was doing for a task that was given back
