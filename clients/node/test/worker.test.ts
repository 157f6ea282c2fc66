import assert from 'node:assert/strict';
import test from 'node:test';
import { App, ClaimLost, Discard, enqueue, enqueueMany, RetryIn, Snooze, type Task } from 'jobqueue-pg';
import {
	gate, newQueue, pool, setUp, sleep, sql, startWorker, taskRow, until, untilStatus, withWorker,
} from './support.js';

setUp();

test('C8 a handler gets the task, and what it returns is the result', async () => {
	const queue = newQueue();
	const seen: Task<any>[] = [];
	const app = new App<any>();
	app.handler('sum', async (task) => {
		seen.push(task);
		return { sum: task.payload.a + task.payload.b };
	});
	app.handler('nothing', () => {});
	const other = await enqueue(pool, 'of another worker', {}, { queue });
	await withWorker(app, { queue }, async () => {
		const id = await enqueue(pool, 'sum', { a: 1, b: 2 }, { queue, metadata: { by: 'test' }, groupKey: 'g' });
		const nothing = await enqueue(pool, 'nothing', {}, { queue });
		assert.deepEqual((await untilStatus(id, 'completed')).result, { sum: 3 });
		assert.equal((await untilStatus(nothing, 'completed')).result, null);
		const { type, payload, attempt, metadata, groupKey, queue: inQueue, id: seenId } = seen[0]!;
		assert.deepEqual({ type, payload, attempt, metadata, groupKey, inQueue, seenId }, {
			type: 'sum', payload: { a: 1, b: 2 }, attempt: 1, metadata: { by: 'test' }, groupKey: 'g', inQueue: queue,
			seenId: id,
		});
		assert.equal((await taskRow(other)).attempts, 0);
	});
});

test('C8 with queue: null it takes tasks from all queues', async () => {
	const app = new App();
	const type = newQueue();
	app.handler(type, () => 'done');
	await withWorker(app, { queue: null }, async () => {
		for (const queue of [newQueue(), newQueue()])
			await untilStatus(await enqueue(pool, type, {}, { queue }), 'completed');
	});
});

test('C8 progress is written into the task', async () => {
	const queue = newQueue();
	const { opened, open } = gate();
	const app = new App();
	app.handler('long', async (task) => {
		assert.throws(() => task.progress(1.5), RangeError);
		task.progress(0.25, 'a quarter');
		task.progress(0.5, 'half');
		await opened;
	});
	await withWorker(app, { queue }, async () => {
		const id = await enqueue(pool, 'long', {}, { queue });
		await until('progress', async () => (await taskRow(id)).progress === 0.5);
		assert.equal((await taskRow(id)).progress_message, 'half');
		open();
		await untilStatus(id, 'completed');
	});
});

test('C9 a handler that throws fails the attempt, by the rules of the server', async () => {
	const queue = newQueue();
	const app = new App<any>();
	app.handler('broken', async (task) => {
		if (task.payload.sql) await pool.query(task.payload.sql);
		throw new Error('out of paper');
	});
	await withWorker(app, { queue }, async () => {
		const id = await enqueue(pool, 'broken', {}, { queue });
		const row = await untilStatus(id, 'scheduled');
		assert.deepEqual([row.last_error, row.last_sqlstate, row.attempts], ['out of paper', 'P0001', 1]);
		assert.ok(row.run_at.getTime() > Date.now() - 60_000);
		const last = await enqueue(pool, 'broken', {}, { queue, maxAttempts: 1 });
		assert.equal((await untilStatus(last, 'failed')).attempts, 1);
		const database = await enqueue(pool, 'broken', { sql: 'SELECT 1 / 0' }, { queue, maxAttempts: 1 });
		const failed = await untilStatus(database, 'failed');
		assert.deepEqual([failed.last_error, failed.last_sqlstate], ['division by zero', '22012']);
	});
});

test('C9 Discard, Snooze and RetryIn', async () => {
	const queue = newQueue();
	const app = new App();
	app.handler('discard', () => {
		throw new Discard('nothing to pay');
	});
	app.handler('snooze', (task) => {
		if (task.attempt === 1) throw new Snooze('1 hour');
		return task.attempt;
	});
	app.handler('retry', () => {
		throw new RetryIn(3_600_000, new Error('too many requests'));
	});
	await withWorker(app, { queue }, async () => {
		const discarded = await untilStatus(await enqueue(pool, 'discard', {}, { queue }), 'failed');
		assert.deepEqual([discarded.last_error, discarded.last_sqlstate], ['nothing to pay', 'JQ003']);
		const hours = async (id: string) => Number((await sql(
			'SELECT extract(epoch FROM run_at - now()) / 3600 AS h FROM jobqueue.tasks WHERE id = $1', [id]))[0].h);
		const snoozed = await untilStatus(await enqueue(pool, 'snooze', {}, { queue, maxAttempts: 1 }), 'scheduled');
		assert.deepEqual([snoozed.attempts, snoozed.max_attempts, snoozed.failures], [1, 2, null]);
		assert.ok(Math.abs((await hours(snoozed.id)) - 1) < 0.1);
		const retried = await untilStatus(await enqueue(pool, 'retry', {}, { queue }), 'scheduled');
		assert.deepEqual([retried.attempts, retried.last_error], [1, 'too many requests']);
		assert.ok(Math.abs((await hours(retried.id)) - 1) < 0.1);
	});
});

test('C9 an end that cannot be stored fails that attempt, and no other', async () => {
	const queue = newQueue();
	const { opened, open } = gate();
	const app = new App<any>();
	app.handler('end', async (task) => {
		await opened; // so that all of them end together
		if (task.payload === 'zero in the result') return 'a\0b';
		if (task.payload === 'zero in the error') throw new Error('a\0b');
		if (task.payload === 'no JSON') return 1n;
		if (task.payload === 'never') throw new RetryIn('next summer');
		return 'good';
	});
	const bad = ['zero in the result', 'zero in the error', 'no JSON', 'never'];
	await withWorker(app, { queue }, async () => {
		const ids = await enqueueMany(pool, 'end', ['good', ...bad, 'good'], { queue, maxAttempts: 1 });
		await until('all run', async () => (await taskRow(ids[5]!)).status === 'processing');
		open();
		for (const [i, id] of ids.entries()) {
			const row = await untilStatus(id, i === 0 || i === 5 ? 'completed' : 'failed');
			if (row.status === 'failed') assert.match(row.last_error, /could not be stored|serialize/);
		}
	});
});

test('C10 at most concurrency handlers run at once, and as many while there is work', async () => {
	const queue = newQueue();
	let running = 0;
	let most = 0;
	const gates: (() => void)[] = [];
	const app = new App();
	app.handler('wait', async () => {
		most = Math.max(most, ++running);
		await new Promise<void>((resolve) => gates.push(resolve));
		running--;
	});
	await withWorker(app, { queue, concurrency: 3 }, async () => {
		await enqueueMany(pool, 'wait', Array.from({ length: 10 }, (_, n) => n), { queue });
		for (let ended = 0; ended < 10; ended++) {
			await until(`the handlers that can run do, after ${ended}`, () => gates.length === Math.min(3, 10 - ended));
			gates.shift()!();
		}
		await until('all are done', async () =>
			(await sql(`SELECT FROM jobqueue.tasks WHERE queue = $1 AND status = 'completed'`, [queue])).length === 10);
	});
	assert.equal(most, 3);
});

test('C11 a notification starts a task while the worker is idle', async () => {
	const queue = newQueue();
	const app = new App();
	app.handler('hello', () => 'hello');
	await withWorker(app, { queue, pollInterval: 3_600_000 }, async ({ log }) => {
		await until('it listens', () => log.includes('connected') && log.includes('listening'));
		// the first one may be found by the look that follows LISTEN, the next ones may not
		for (let n = 0; n < 5; n++) await untilStatus(await enqueue(pool, 'hello', n, { queue }), 'completed');
	});
});

test('C12 without LISTEN the poll finds the task', async () => {
	const queue = newQueue();
	const app = new App();
	app.handler('hello', () => 'hello');
	await withWorker(app, { queue, pollInterval: 200, listen: false }, async ({ log }) => {
		await until('it is connected', () => log.includes('connected'));
		for (let n = 0; n < 3; n++) await untilStatus(await enqueue(pool, 'hello', n, { queue }), 'completed');
		assert.deepEqual(log, ['connected']);
	});
});

test('C13 the lease is extended while the handler runs', async () => {
	const queue = newQueue();
	const attempts: number[] = [];
	const { opened, open } = gate();
	const app = new App();
	app.handler('long', async (task) => {
		attempts.push(task.attempt);
		await opened;
		return task.signal.aborted;
	});
	const options = { queue, lease: 6000, pollInterval: 200 };
	await withWorker(app, options, () => withWorker(app, options, async () => {
		const id = await enqueue(pool, 'long', {}, { queue });
		const { lease_expires_at: end } = await untilStatus(id, 'processing');
		try {
			await until('the first lease is over', async () =>
				(await sql(`SELECT now() > $1::timestamptz + interval '2 seconds' AS over`, [end]))[0].over);
		} finally {
			open();
		}
		const row = await untilStatus(id, 'completed');
		assert.deepEqual([row.attempts, row.result, row.failures, attempts], [1, false, null, [1]]);
	}));
});

test('C14 a handler learns that its task was cancelled', async () => {
	const queue = newQueue();
	const reasons: unknown[] = [];
	const app = new App();
	app.handler('long', async (task) => {
		await new Promise((resolve) => task.signal.addEventListener('abort', resolve));
		reasons.push(task.signal.reason);
		return 'too late';
	});
	await withWorker(app, { queue, lease: 3000 }, async () => {
		const id = await enqueue(pool, 'long', {}, { queue });
		await untilStatus(id, 'processing');
		await sql('SELECT jobqueue.cancel($1)', [id]);
		await until('the handler has learnt of it', () => reasons.length === 1);
		assert.ok(reasons[0] instanceof ClaimLost);
		assert.deepEqual([(await taskRow(id)).status, (await taskRow(id)).result], ['cancelled', null]);
	});
});

test('C14 a handler learns that its claim was lost, and does not report over the next one', async () => {
	const queue = newQueue();
	const { opened, open } = gate();
	const app = new App();
	app.handler('long', async (task) => {
		if (task.attempt === 1) {
			await new Promise((resolve) => task.signal.addEventListener('abort', resolve));
			return 'old';
		}
		await opened;
		return 'new';
	});
	await withWorker(app, { queue, lease: 3000 }, async () => {
		const id = await enqueue(pool, 'long', {}, { queue });
		await untilStatus(id, 'processing');
		// as when the lease has ended: somebody else, here the same worker, gets the task
		await sql('SELECT jobqueue.release($1, 1)', [id]);
		await until('the next attempt', async () => (await taskRow(id)).attempts === 2);
		await sleep(0);
		open();
		const row = await untilStatus(id, 'completed');
		assert.deepEqual([row.attempts, row.result], [2, 'new']);
	});
});

test('C15 a handler completes its task in its own transaction', async () => {
	const queue = newQueue();
	const app = new App<any>();
	app.handler('write', async (task) => {
		const client = await pool.connect();
		try {
			await client.query('BEGIN');
			await client.query('INSERT INTO done VALUES ($1)', [task.payload]);
			if (task.payload === 3) await sql('SELECT jobqueue.release($1, $2)', [task.id, task.attempt]);
			await task.complete(client, { wrote: task.payload });
			if (task.payload === 2) throw new Error('after all');
			await client.query('COMMIT');
			return 'not the result';
		} catch (error) {
			await client.query('ROLLBACK');
			throw error;
		} finally {
			client.release();
		}
	});
	await sql('DELETE FROM done');
	await withWorker(app, { queue }, async () => {
		const good = await enqueue(pool, 'write', 1, { queue });
		assert.deepEqual((await untilStatus(good, 'completed')).result, { wrote: 1 });
		const bad = await enqueue(pool, 'write', 2, { queue, maxAttempts: 1 });
		assert.deepEqual((await untilStatus(bad, 'failed')).last_error, 'after all');
		assert.deepEqual(await sql('SELECT n FROM done'), [{ n: 1 }]);
	});
	// the claim is lost meanwhile: complete throws, the handler rolls back, nothing is reported
	const id = await enqueue(pool, 'write', 3, { queue });
	await withWorker(app, { queue }, async () => {
		await until('some attempts', async () => (await taskRow(id)).attempts >= 3);
		await sql('SELECT jobqueue.cancel($1)', [id]);
	});
	assert.equal((await taskRow(id)).failures, null);
	assert.deepEqual(await sql('SELECT n FROM done'), [{ n: 1 }]);
});

test('C16 ends are reported in batches, together with the next claim', async () => {
	const queue = newQueue();
	const first = gate();
	const second = gate();
	let started = 0;
	const app = new App();
	app.handler('wait', async () => {
		await (++started <= 20 ? first.opened : second.opened);
	});
	await withWorker(app, { queue, concurrency: 20 }, async () => {
		await enqueueMany(pool, 'wait', Array.from({ length: 40 }, (_, n) => n), { queue });
		await until('20 run', () => started === 20);
		first.open();
		await until('20 more run', () => started === 40);
		const count = async (query: string) => Number((await sql(query, [queue]))[0].n);
		// rows that one transaction has written have the same xmin
		const ends = `SELECT DISTINCT xmin::text FROM jobqueue.tasks WHERE queue = $1 AND status = 'completed'`;
		assert.ok(await count(`SELECT count(*) AS n FROM (${ends}) e`) <= 5);
		assert.equal(await count(`SELECT count(*) AS n FROM jobqueue.tasks WHERE queue = $1 AND status = 'processing'
			AND xmin::text NOT IN (${ends})`), 0, 'each of the next claims came with a report');
		second.open();
	});
});

test('C16 no end waits for a long handler beside it', async () => {
	const queue = newQueue();
	const { opened, open } = gate();
	const app = new App();
	app.handler('long', () => opened);
	app.handler('short', () => 'done');
	await withWorker(app, { queue, concurrency: 2 }, async () => {
		const long = await enqueue(pool, 'long', {}, { queue });
		await untilStatus(long, 'processing');
		const short = await enqueueMany(pool, 'short', [1, 2, 3, 4, 5], { queue });
		for (const id of short) await untilStatus(id, 'completed');
		assert.equal((await taskRow(long)).status, 'processing');
		open();
		await untilStatus(long, 'completed');
	});
});

test('a worker that may not claim says so once, and works when it may', async () => {
	const queue = newQueue();
	const app = new App();
	app.handler('hello', () => 'hello');
	await sql(`CREATE ROLE node_nobody LOGIN`);
	try {
		await withWorker(app, { queue, listen: false }, async ({ log }) => {
			await until('it has said so', () => log.length > 0);
			await sleep(2000);
			assert.equal(log.length, 1, log.join('\n'));
			await sql(`SELECT jobqueue.grant_access('node_nobody', 'consumer')`);
			await untilStatus(await enqueue(pool, 'hello', {}, { queue }), 'completed');
		}, { user: 'node_nobody' });
	} finally {
		await sql(`DROP OWNED BY node_nobody`);
		await sql(`DROP ROLE node_nobody`);
	}
});

test('the settings of a worker are checked', () => {
	const app = new App().handler('x', () => {});
	assert.throws(() => startWorker(app, { concurrency: 0 }), RangeError);
	assert.throws(() => startWorker(app, { lease: NaN }), RangeError);
	assert.throws(() => startWorker(new App(), {}), /no handlers/);
	assert.throws(() => startWorker(app, {}, 'host=one dbname=two'), /is a URL/);
	assert.throws(() => new App().handler('x', () => {}).handler('x', () => {}), /a handler already/);
});
