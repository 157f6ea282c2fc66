// For the programs in JavaScript.
import assert from 'node:assert/strict';

export const sent = [];
export const sendMail = async (payload) => void sent.push(payload);

// The one that was sent last, and the task as it is read in the end.
export function check(task) {
  assert.deepEqual(sent.splice(0), [{ to: 'ann@example.org' }]);
  assert.deepEqual({ ...task }, { status: 'completed', attempts: 1, to: 'ann@example.org', sent: 'true' });
}

export const query = `SELECT status, attempts, payload ->> 'to' AS "to", result ->> 'sent' AS sent
  FROM jobqueue.tasks WHERE id = `;
