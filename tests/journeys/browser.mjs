// A person at a browser: opens each address that comes as a line of JSON on stdin, logs in where that is asked for,
// agrees, and waits until the client has its answer. A line {ok, detail} goes out for each.
//
// A line: {url, shots?, server?, end?}: the server to choose, the heading of the page at the end where there is one. MODULES is the folder whose node_modules has playwright-core, CHROMIUM the program; LOGIN and
// PASSWORD are the person's. With `shots`, the pages on the way are kept there, light and dark.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const { CHROMIUM, LOGIN, MODULES, PASSWORD } = process.env;
const require = createRequire(`${MODULES}/package.json`);
const { chromium } = require('playwright-core');

const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'] });
const context = await browser.newContext({ viewport: { width: 900, height: 900 } });

async function shoot(page, shots, name) {
    if (!shots) return;
    for (const scheme of ['light', 'dark']) {
        await page.emulateMedia({ colorScheme: scheme });
        await page.screenshot({ path: `${shots}/${name}-${scheme}.png`, clip: await around(page) });
    }
    await page.emulateMedia({ colorScheme: 'light' });
}

// The page's content with a margin: screenshots hold no empty space.
async function around(page) {
    const box = await page.locator('main').boundingBox();
    const margin = 24;
    return { x: box.x - margin, y: Math.max(0, box.y - margin), width: box.width + 2 * margin, height: box.height + 2 * margin };
}

// A page that does not close, once it has shown what it had to, keeps nobody.
function leave(page) {
    page.close().catch(() => {});
}

async function visit({ url, shots, expect, server, end }) {
    const page = await context.newPage();
    const blocked = [];
    // What the page's policy stops is said on the console alone.
    page.on('console', (message) => message.type() === 'error' && blocked.push(message.text()));
    await page.goto(url);
    if (await page.locator('form[action="/login"]').count()) {
        await shoot(page, shots, 'login');
        await page.getByLabel('Name').fill(LOGIN);
        await page.getByLabel('Password').fill(PASSWORD);
        await page.getByRole('button', { name: 'Sign in' }).click();
    }
    if (expect) {
        await page.getByRole('heading', { name: expect }).waitFor();
        await shoot(page, shots, expect.toLowerCase().replaceAll(' ', '-'));
        leave(page);
        return expect;
    }
    await page.getByRole('heading', { name: 'Allow this application?' }).waitFor();
    if (server) await page.getByLabel('Choose one').selectOption({ label: server });
    await shoot(page, shots, server ? 'choice' : 'consent');
    const asked = await page.locator('main').innerText();
    const allow = page.getByRole('button', { name: 'Allow', exact: true });
    if (end) {
        await allow.click();
        await page.getByRole('heading', { name: end }).waitFor();
        await shoot(page, shots, end.toLowerCase());
        const to = await page.getByRole('link').getAttribute('href');
        leave(page);
        return to;
    }
    const answered = page.waitForResponse((response) => /[?&](code|error)=/.test(response.url()));
    await allow.click();
    const response = await answered;
    if (response.status() >= 400) throw new Error(`the client answered ${response.status()}; ${blocked}`);
    leave(page);
    return asked.replaceAll('\n', ' | ');
}

for await (const line of createInterface({ input: process.stdin })) {
    let answer;
    try {
        // Whatever hangs, hangs for a minute and not for ever.
        const late = new Promise((_, reject) => setTimeout(() => reject(new Error('no end within 60 s')), 60_000).unref());
        answer = { ok: true, detail: await Promise.race([visit(JSON.parse(line)), late]) };
    } catch (error) {
        answer = { ok: false, detail: String(error?.message ?? error) };
    }
    console.log(JSON.stringify(answer));
}
await browser.close();
