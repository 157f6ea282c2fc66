import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import test from 'node:test';
import { App, enqueue, enqueueMany, enqueueUnique, type Queryable, type TaskId, Worker } from 'jobqueue-pg';
import { packageRoot } from './support.js';

// Never called: the compiler checks it, strictly. Each line after "@ts-expect-error" must be an error.
export async function uses(conn: Queryable): Promise<void> {
	const id: TaskId = await enqueue(conn, 'send_email', { to: 'ann' }, { after: [''], runAt: new Date() });
	const { isNew }: { isNew: boolean } = await enqueueUnique(conn, 'x', {}, { uniqueKey: 'k' });
	// @ts-expect-error an id is a string, and no number
	const number: number = id;
	// @ts-expect-error there is no such option
	await enqueue(conn, 'send_email', {}, { prio: 1 });
	// @ts-expect-error a key is needed
	await enqueueUnique(conn, 'x', {}, {});
	// @ts-expect-error enqueueMany has no key
	await enqueueMany(conn, 'x', [], { uniqueKey: 'k' });
	// @ts-expect-error one of three words
	await enqueue(conn, 'x', {}, { onConflict: 'overwrite' });
	// @ts-expect-error an id that may have been rounded
	await enqueue(conn, 'x', {}, { after: [9007199254740993] });

	const app = new App<{ send_email: { to: string } }>();
	app.handler('send_email', (task) => task.payload.to.length);
	// @ts-expect-error the payload has no such key
	app.handler('send_email', (task) => task.payload.from);
	// @ts-expect-error there is no such type
	app.handler('send_mail', () => {});
	// @ts-expect-error without types of payloads, nothing is known of one
	new App().handler('x', (task) => task.payload.to);
	new Worker(app, 'postgresql:///', { queue: null });
	// @ts-expect-error a number of milliseconds
	new Worker(app, {}, { lease: '5 minutes' });
	void [number, isNew];
}

const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');

for (const project of ['.', 'test'])
	test(`C24 the compiler, in strict mode, has no complaint: ${project}`, () => {
		const args = [tsc, '-p', join(packageRoot, project), '--noEmit', '--strict'];
		const { status, stdout } = spawnSync(process.execPath, args, { encoding: 'utf8' });
		assert.equal(status, 0, stdout);
	});

test('C24 what package.json exports is there, with its types', async () => {
	const { exports, bin } = createRequire(import.meta.url)('../package.json');
	const files = Object.values<Record<string, string>>(exports).flatMap(Object.values).concat(Object.values(bin));
	assert.equal(files.length, 11);
	for (const file of files) assert.ok(existsSync(join(packageRoot, file)), file);
});
