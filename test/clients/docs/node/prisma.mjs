// section: Prisma
import assert from 'node:assert/strict';
import { PrismaPg } from '@prisma/adapter-pg';
import { PrismaClient } from '@prisma/client';
import { check, query, sendMail } from './common.mjs';

const prisma = new PrismaClient({ adapter: new PrismaPg({}) });
for (let run = 0; run < 10; run++) {
  // BLOCK 1
  assert.equal(typeof taskId, 'bigint');
  check((await prisma.$queryRawUnsafe(query + '$1', taskId))[0]);
  const task = await prisma.task.findUniqueOrThrow({ where: { id: taskId } });
  assert.equal(task.status, 'completed');
  assert.deepEqual([task.payload, task.result], [{ to: 'ann@example.org' }, { sent: true }]);
  assert(task.createdAt < task.finishedAt);
}

await assert.rejects(prisma.$queryRaw`SELECT jobqueue.enqueue('check', ${[1, 2]}::jsonb)`, /22P02/);
const [{ id }] = await prisma.$queryRaw`SELECT jobqueue.enqueue('check', ${JSON.stringify([1, 2])}::jsonb) AS id`;
await assert.rejects(prisma.$queryRaw`SELECT * FROM jobqueue.claim(types => ${['check']})`, /interval/);
const left = await prisma.task.findUniqueOrThrow({ where: { id } });
assert.deepEqual([left.status, left.payload], ['processing', [1, 2]]);
await prisma.$queryRaw`SELECT jobqueue.enqueue('check', '{"n": 1}', timeout => '1 minute') AS id`;
const [{ task }] = await prisma.$queryRaw`SELECT jobqueue.claim_json(types => ${['check']}) AS task`;
assert.deepEqual([task.attempts, task.payload, typeof task.id, task.timeout], [1, { n: 1 }, 'number', '00:01:00']);

const schedule = (tx, sql) => tx.$queryRawUnsafe(sql);
await assert.rejects(schedule(prisma, "SELECT jobqueue.schedule('check', '@yearly', 'check')"), /void/);
await schedule(prisma, "SELECT jobqueue.schedule('check', '@yearly', 'check')::text");
await prisma.$queryRaw`SELECT jobqueue.unschedule('check')`;

// a producer may read it; what is rolled back is not there
await assert.rejects(prisma.$transaction(async (tx) => {
  await tx.$executeRaw`SET LOCAL ROLE clients_producer`;
  await tx.$queryRaw`SELECT jobqueue.enqueue('rolled_back')`;
  assert.equal(await tx.task.count({ where: { type: 'rolled_back' } }), 1);
  throw new Error('no');
}), /no/);
assert.equal(await prisma.task.count({ where: { type: 'rolled_back' } }), 0);
await prisma.$disconnect();
