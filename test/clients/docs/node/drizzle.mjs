// section: Drizzle
import assert from 'node:assert/strict';
import { eq, sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import pg from 'pg';
import { check, query, sendMail } from './common.mjs';

const pool = new pg.Pool();
const db = drizzle({ client: pool });

// BLOCK 2

for (let run = 0; run < 10; run++) {
  const id = await work();
  check((await pool.query(query + '$1', [id])).rows[0]);
  const [task] = await db.select().from(tasks).where(eq(tasks.id, BigInt(id)));
  assert.equal(task.status, 'completed');
  assert.deepEqual([task.payload, task.result], [{ to: 'ann@example.org' }, { sent: true }]);
  assert(task.createdAt < task.finishedAt);
}

async function work() {
  // BLOCK 1
  assert.equal(typeof taskId, 'string');
  return taskId;
}

const enqueue = (payload) => db.execute(sql`SELECT jobqueue.enqueue('check', ${payload})`);
await assert.rejects(enqueue([1, 2]), ({ cause }) => cause.code === '42883');
await assert.rejects(enqueue(sql.param([1, 2])), ({ cause }) => cause.code === '22P02');
await enqueue(JSON.stringify([1, 2]));
const claimed = await db.execute(sql`SELECT payload FROM jobqueue.claim(types => ${sql.param(['check'])})`);
assert.deepEqual(claimed.rows, [{ payload: [1, 2] }]);

// a producer may read it; what is rolled back is not there
await assert.rejects(db.transaction(async (tx) => {
  await tx.execute(sql`SET LOCAL ROLE clients_producer`);
  await tx.execute(sql`SELECT jobqueue.enqueue('rolled_back')`);
  assert.equal((await tx.select().from(tasks).where(eq(tasks.type, 'rolled_back'))).length, 1);
  throw new Error('no');
}), /no/);
assert.deepEqual(await db.select().from(tasks).where(eq(tasks.type, 'rolled_back')), []);
await pool.end();
