// Counts what one set of the suite wrote and holds it against what is expected.
//
//   node count.mjs SET RESULTS TOTAL EXPECT SUITE_STATUS [ALLOWED_FAILURES]
//
// The suite's own summary calls a scenario passed that only warned, or that never reached the server; here a
// scenario passes if it wrote checks and none of them failed or warned.
//
// ALLOWED_FAILURES lists scenarios that are known to fail, a line each: SET SCENARIO REASON. Without it, EXPECT is
// the exact number of scenarios that pass; with it, the least. A failure that is not listed fails the set, and so
// does a listed scenario that passes or did not run.

import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

const [set, results, totalText, expectText, statusText, allowedFile] = process.argv.slice(2);
const [total, expect, status] = [totalText, expectText, statusText].map(Number);
const SETS = ['0.1.16', '2025-11-25', '2026-07-28'];
const STAMP = /^server-(.+)-\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}-\d{3}Z$/;
const BAD = ['FAILURE', 'WARNING'];

const problems = [];
const allowed = allowedFile ? readAllowed(allowedFile) : new Map();
const scenarios = readScenarios();

let [passed, good, bad] = [0, 0, 0];
for (const [name, checks] of scenarios) {
  good += checks.filter((check) => check.status === 'SUCCESS').length;
  const failures = checks.filter((check) => BAD.includes(check.status));
  bad += failures.length;
  const reason = allowed.get(name);
  if (checks.length > 0 && failures.length === 0) {
    passed += 1;
    if (reason) problems.push(`${name} passes, but is listed as failing: ${reason}`);
  } else if (!reason) {
    problems.push(`${name} fails`);
    if (checks.length === 0) problems.push('    it wrote no checks');
    for (const { id, errorMessage } of failures) problems.push(`    ${id}: ${errorMessage ?? 'no message'}`);
  }
}
for (const name of allowed.keys()) {
  if (!scenarios.has(name)) problems.push(`${name} is listed as failing, but did not run`);
}
if (scenarios.size !== total) problems.push(`${scenarios.size} scenarios ran, not ${total}`);
if (allowedFile ? passed < expect : passed !== expect) problems.push(`${passed} scenarios pass, not ${expect}`);
if (status !== 0 && bad === 0) problems.push(`the suite ended with status ${status}, though no check failed`);

console.log(`${set} ${passed}/${scenarios.size} (${good}+${bad})`);
for (const problem of problems) console.error(`  ${problem}`);
process.exitCode = problems.length === 0 ? 0 : 1;

function readScenarios() {
  const found = new Map();
  for (const folder of readdirSync(results).sort()) {
    const name = STAMP.exec(folder)?.[1];
    if (!name) continue;
    // A scenario that threw leaves its folder empty.
    const file = join(results, folder, 'checks.json');
    found.set(name, existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : []);
  }
  return found;
}

function readAllowed(file) {
  const listed = new Map();
  for (const [index, line] of readFileSync(file, 'utf8').split('\n').entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const [, of, name, reason] = /^(\S+)\s+(\S+)\s+(\S.*)$/.exec(line) ?? [];
    if (!reason || !SETS.includes(of)) {
      problems.push(`${file}:${index + 1}: want "SET SCENARIO REASON" with SET one of ${SETS.join(', ')}`);
    } else if (of === set) {
      if (listed.has(name)) problems.push(`${file}:${index + 1}: ${name} is listed twice`);
      listed.set(name, reason);
    }
  }
  return listed;
}
