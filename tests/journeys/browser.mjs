// A person at a browser. Each line of JSON on stdin is a visit, `{id, ...}`; a line `{id, ok, detail}` goes out for each.
// Visits run side by side, each as if in a browser of its own, where nobody is signed in yet.
//
// MODULES is the folder whose node_modules has playwright-core, CHROMIUM the program; LOGIN and PASSWORD are the person's.
// What a page did is a part of every failure.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

import { inspect } from './inspector.mjs';
import { Person, watch } from './person.mjs';

const { CHROMIUM, MODULES } = process.env;
const require = createRequire(`${MODULES}/package.json`);
const { chromium } = require('playwright-core');

// Whatever hangs, hangs for this long and not for ever; a machine that does other things is slow.
const PATIENCE = 240_000;

const browser = await chromium.launch({
    executablePath: CHROMIUM,
    // Documents' hosts have certificates of an authority that nobody knows.
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--ignore-certificate-errors'],
});

// Opens what a client wants opened, signs in, agrees, and ends where the visit says; what the person was asked.
async function connect(page, visit) {
    const person = new Person(page, visit);
    await page.goto(visit.url);
    if (visit.expect) {
        await page.getByRole('heading', { name: visit.expect }).waitFor();
        await person.shoot(visit.expect);
        return visit.expect;
    }
    await person.signIn();
    if (visit.link) return person.link();
    if (visit.code) await person.enter();
    const asked = visit.silent ? 'nothing' : await person.agree();
    return { asked, end: await person.end() };
}

async function run(visit) {
    const context = await browser.newContext({ viewport: { width: 900, height: 900 } });
    context.setDefaultTimeout(PATIENCE);
    const page = await context.newPage();
    const trail = watch(page);
    let late;
    try {
        const overdue = new Promise((_, reject) => {
            late = setTimeout(() => reject(new Error(`no end within ${PATIENCE / 1000} s`)), PATIENCE);
        });
        const doing = visit.inspector ? inspect(page, visit) : connect(page, visit);
        return { ok: true, detail: await Promise.race([doing, overdue]) };
    } catch (error) {
        const seen = await page.locator('body').innerText({ timeout: 1000 }).catch(() => '');
        const what = String(error?.message ?? error).split('\nCall log')[0];
        return { ok: false, detail: [what, `at ${page.url()}`, ...trail, seen.slice(0, 600)].join('\n') };
    } finally {
        clearTimeout(late);
        await context.close();
    }
}

const visits = [];
for await (const line of createInterface({ input: process.stdin })) {
    const visit = JSON.parse(line);
    visits.push(run(visit).then((answer) => console.log(JSON.stringify({ id: visit.id, ...answer }))));
}
await Promise.all(visits);
await browser.close();
