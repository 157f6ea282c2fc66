import assert from 'node:assert/strict';
import test from 'node:test';
import { App, enqueue, WorkerStopped } from 'jobqueue-pg';
import {
	newQueue, pool, setUp, startWorker, taskRow, untilStarted, untilStatus, withWorker, WorkerProcess,
} from './support.js';

setUp();

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
	test(`C17 ${signal}: running handlers end, and nothing more is claimed`, async () => {
		const queue = newQueue();
		const worker = WorkerProcess.withApp(queue, '--concurrency', '1', '--grace', '60');
		const id = await enqueue(pool, 'sleep', { ms: 2000 }, { queue });
		const next = await enqueue(pool, 'sleep', { ms: 2000 }, { queue });
		await untilStarted(id);
		await worker.stops(signal);
		const row = await taskRow(id);
		assert.deepEqual([row.status, row.attempts, row.result], ['completed', 1, 'rested']);
		assert.deepEqual([(await taskRow(next)).status, (await taskRow(next)).attempts], ['pending', 0]);
	});

	test(`C17 ${signal}: what is not done after the grace is given back`, async () => {
		const queue = newQueue();
		const worker = WorkerProcess.withApp(queue, '--grace', '0.5');
		const ids = await Promise.all([1, 2, 3].map(() => enqueue(pool, 'stuck', {}, { queue })));
		for (const id of ids) await untilStarted(id);
		await worker.stops(signal);
		for (const id of ids) {
			const row = await taskRow(id);
			assert.deepEqual([row.status, row.max_attempts - row.attempts, row.failures], ['pending', 20, null]);
		}
	});
}

test('C17 a second signal ends it at once', async () => {
	for (const second of ['SIGTERM', 'SIGINT'] as const) {
		const queue = newQueue();
		const worker = WorkerProcess.withApp(queue, '--grace', '600');
		await untilStarted(await enqueue(pool, 'stuck', {}, { queue }));
		worker.kill('SIGTERM');
		await worker.says(' stopping');
		worker.kill(second);
		assert.deepEqual(await worker.ended, { code: null, signal: second });
	}
});

test('C17 an idle worker, and one that is not connected, stop at once', async () => {
	const idle = WorkerProcess.withApp(newQueue(), '--grace', '600');
	await idle.says(' connected');
	await idle.stops('SIGTERM');
	const nowhere = 'postgresql://127.0.0.1:1/x';
	const lost = new WorkerProcess(['worker', './fixtures/app.js', '--grace', '600', '--dsn', nowhere]);
	await lost.says('ECONNREFUSED');
	await lost.stops('SIGTERM');
});

test('C17 a handler that is given up learns of it, and what it returns is not reported', async () => {
	const queue = newQueue();
	const app = new App();
	let reason: unknown;
	app.handler('long', async (task) => {
		task.progress(0, 'started');
		await new Promise((resolve) => task.signal.addEventListener('abort', resolve));
		reason = task.signal.reason;
		return 'too late';
	});
	const started = startWorker(app, { queue, grace: 100 });
	const id = await enqueue(pool, 'long', {}, { queue });
	await untilStarted(id);
	await started.stop();
	assert.ok(reason instanceof WorkerStopped);
	assert.deepEqual([(await taskRow(id)).status, (await taskRow(id)).result], ['pending', null]);
});

test('C19 after kill -9 another worker gets the task, when the lease ends', async () => {
	const queue = newQueue();
	const worker = WorkerProcess.withApp(queue, '--lease', '4');
	const id = await enqueue(pool, 'stuck', {}, { queue });
	await untilStarted(id);
	worker.kill('SIGKILL');
	await worker.ended;
	const attempts: number[] = [];
	const app = new App().handler('stuck', (task) => {
		attempts.push(task.attempt);
		return 'done by another one';
	});
	await withWorker(app, { queue, pollInterval: 500 }, async () => {
		const row = await untilStatus(id, 'completed');
		assert.deepEqual([row.attempts, row.result, attempts], [2, 'done by another one', [2]]);
		assert.deepEqual([row.failures.length, row.failures[0].sqlstate], [1, 'JQ001']);
	});
});
