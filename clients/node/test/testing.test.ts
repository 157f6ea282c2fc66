import assert from 'node:assert/strict';
import test from 'node:test';
import { App, Discard, enqueue, enqueueMany, RetryIn, Snooze } from 'jobqueue-pg';
import { drain, runTasks } from 'jobqueue-pg/testing';
import { inTransaction, newQueue, setUp, sql } from './support.js';

setUp();

test('C23 runTasks works in the transaction of the test, and a rollback undoes all of it', async () => {
	const queue = newQueue();
	await sql('DELETE FROM done');
	await inTransaction(async (client) => {
		const app = new App<{ write: number; first: number; last: number }>();
		app.handler('write', async (task) => {
			await client.query('INSERT INTO done VALUES ($1)', [task.payload]);
			task.progress(1, 'written');
			return { wrote: task.payload };
		});
		app.handler('first', async (task) => {
			await enqueueMany(client, 'write', [task.payload, task.payload + 1], { queue });
		});
		app.handler('last', async (task) => task.complete(client, 'by itself'));
		await enqueue(client, 'first', 5, { queue, priority: -1 });
		await enqueue(client, 'last', 0, { queue, priority: 1 });
		await enqueue(client, 'of no interest', 0, { queue });
		const rows = await runTasks(client, app, { queue });
		const got = rows.map(({ type, status, result, progressMessage }) => [type, status, result, progressMessage]);
		assert.deepEqual(got, [
			['first', 'completed', null, null],
			['write', 'completed', { wrote: 5 }, 'written'],
			['write', 'completed', { wrote: 6 }, 'written'],
			['last', 'completed', 'by itself', null],
		]);
		assert.deepEqual((await client.query('SELECT n FROM done ORDER BY n')).rows, [{ n: 5 }, { n: 6 }]);
		assert.deepEqual(await runTasks(client, app, { queue }), []);
	});
	assert.deepEqual(await sql('SELECT n FROM done'), []);
	assert.deepEqual(await sql('SELECT FROM jobqueue.tasks WHERE queue = $1', [queue]), []);
});

test('C23 runTasks throws the error of a handler', async () => {
	const queue = newQueue();
	const wrong = new Error('wrong');
	const app = new App().handler('wrong', () => {
		throw wrong;
	});
	await inTransaction(async (client) => {
		await enqueue(client, 'wrong', {}, { queue });
		await assert.rejects(runTasks(client, app, { queue }), wrong);
	});
});

test('C23 runTasks does what Discard, Snooze and RetryIn say', async () => {
	const queue = newQueue();
	const app = new App();
	for (const [type, error] of [
		['discard', new Discard('no')],
		['snooze', new Snooze('1 hour')],
		['retry', new RetryIn(60_000, new Error('later'))],
	] as const)
		app.handler(type, () => {
			throw error;
		});
	await inTransaction(async (client) => {
		for (const type of app.types) await enqueue(client, type, {}, { queue });
		const rows = await runTasks(client, app, { queue, maxTasks: 3 });
		assert.deepEqual(rows.map(({ status, lastError }) => [status, lastError]),
			[['failed', 'no'], ['scheduled', null], ['scheduled', 'later']]);
		assert.ok(rows[1]!.runAt!.getTime() > Date.now() && rows[0]!.finishedAt instanceof Date);
	});
});

test('C23 drain runs the handlers in the server', async () => {
	const queue = newQueue();
	const type = newQueue();
	await inTransaction(async (client) => {
		await client.query(`CREATE FUNCTION node_drained(payload jsonb) RETURNS integer LANGUAGE sql
			AS 'SELECT 2 / payload::integer'`);
		await client.query(`SELECT jobqueue.register_handler($1, 'node_drained(jsonb)')`, [type]);
		const ids = await enqueueMany(client, type, [1, 2, 0], { queue });
		const late = await enqueue(client, type, 2, { queue, delay: '1 hour' });
		const rows = await drain(client, { queue });
		assert.deepEqual(rows.map(({ id, status, result }) => [id, status, result]),
			[[ids[0], 'completed', 2], [ids[1], 'completed', 1], [ids[2], 'scheduled', null]]);
		assert.match(rows[2]!.lastError!, /division by zero/);
		assert.equal(rows[2]!.failures?.[0]?.sqlstate, '22012');
		const [first] = await drain(client, { queue, includeScheduled: true, maxTasks: 1 });
		assert.equal(first?.id, ids[2]);
		await client.query('SELECT jobqueue.cancel($1)', [ids[2]]);
		assert.deepEqual((await drain(client, { queue, includeScheduled: true })).map(({ id }) => id), [late]);
		await enqueue(client, type, 0, { queue });
		await assert.rejects(drain(client, { queue, raiseErrors: true }), { code: '22012' });
	});
});
