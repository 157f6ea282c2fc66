// section: Knex
import assert from 'node:assert/strict';
import Knex from 'knex';
import { check, query, sendMail } from './common.mjs';

const knex = Knex({ client: 'pg', connection: {} });
for (let run = 0; run < 10; run++) {
  // BLOCK 1
  assert.equal(typeof taskId, 'string');
  check((await knex.raw(query + '?', [taskId])).rows[0]);
}

const enqueue = 'SELECT jobqueue.enqueue(?, ?)';
await assert.rejects(knex.raw(enqueue, ['check', [1, 2]]), { code: '22P02' });
const complete = 'SELECT jobqueue.complete(?, ?, ?) AS ok';
await assert.rejects(async () => knex.raw(complete, ['1', 1, undefined]), /Undefined binding/);
assert.equal((await knex.raw(complete, ['1', 99, null])).rows[0].ok, false);
await assert.rejects(knex.transaction(async (trx) => {
  await trx.raw(enqueue, ['rolled_back', '{}']);
  throw new Error('no');
}));
assert.deepEqual(await knex('jobqueue.tasks').where({ type: 'rolled_back' }).select('id'), []);
await knex.destroy();
