// section: node-pg
import assert from 'node:assert/strict';
import pg from 'pg';
import { check, query, sendMail } from './common.mjs';

const client = new pg.Client();
await client.connect();
for (let run = 0; run < 10; run++) {
  // BLOCK 1
  assert.equal(typeof taskId, 'string');
  check((await client.query(query + '$1', [taskId])).rows[0]);
}

const enqueue = (payload) => client.query("SELECT jobqueue.enqueue('check', $1)", [payload]);
const payloads = async () => (await client.query(
  "SELECT payload FROM jobqueue.claim(types => ARRAY['check'], max_tasks => 100)")).rows.map(({ payload }) => payload);
for (const payload of [[1, 2], 'text'])
  await assert.rejects(enqueue(payload), { code: '22P02' });
await enqueue(5);
await assert.rejects(enqueue([{ a: 1 }, { a: 2 }]), { code: '22P02' });
await enqueue(JSON.stringify([1, 2]));
await enqueue(JSON.stringify('text'));
const many = (list) => client.query("SELECT jobqueue.enqueue_many('check', $1)", [list]);
assert.equal((await many([{ a: 1 }, { a: 2 }])).rowCount, 2);
assert.equal((await many([[1], 'x'].map((payload) => JSON.stringify(payload)))).rowCount, 2);
assert.deepEqual(await payloads(), [5, [1, 2], 'text', { a: 1 }, { a: 2 }, [1], 'x']);
await client.end();
