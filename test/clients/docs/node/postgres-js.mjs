// section: postgres.js
import assert from 'node:assert/strict';
import postgres from 'postgres';
import { check, query, sendMail } from './common.mjs';

const sql = postgres({ max: 1, POOLER_OPTION });
for (let run = 0; run < 10; run++) {
  // BLOCK 1
  assert.equal(typeof taskId, 'string');
  check((await sql.unsafe(query + '$1', [taskId]))[0]);
}

for (const payload of [[1, 2], 'text', 5, { a: [] }, JSON.stringify({ a: 1 })])
  await sql`SELECT jobqueue.enqueue('check', ${payload})`;
const tasks = await sql`SELECT payload FROM jobqueue.claim(types => ${['check']}, max_tasks => 100)`;
assert.deepEqual(tasks.map(({ payload }) => payload), [[1, 2], 'text', 5, { a: [] }, '{"a":1}']);
await assert.rejects(sql.begin(async (sql) => {
  await sql`SELECT jobqueue.enqueue('rolled_back', ${{}})`;
  throw new Error('no');
}));
assert.deepEqual([...await sql`SELECT id FROM jobqueue.tasks WHERE type = 'rolled_back'`], []);
await sql.end();
