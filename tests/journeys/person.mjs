// What a person does at the pages of the gateway and of the company's identity provider.

const { LOGIN, PASSWORD } = process.env;

// What the page does, as lines: requests, answers, where it is, what it complains about.
export function watch(page) {
    const trail = [];
    const begun = Date.now();
    const say = (line) => trail.push(`${((Date.now() - begun) / 1000).toFixed(2)} ${line}`);
    const leads = (request) => request.isNavigationRequest();
    page.on('request', (request) => leads(request) && say(`-> ${request.method()} ${request.url()}`));
    page.on('response', (response) => leads(response.request()) && say(`<- ${response.status()} ${response.url()}`));
    page.on('requestfailed', (request) => say(`failed ${request.url()}: ${request.failure()?.errorText}`));
    page.on('framenavigated', (frame) => frame === page.mainFrame() && say(`at ${frame.url()}`));
    // What a page's policy stops is said here alone.
    page.on('console', (message) => ['error', 'warning'].includes(message.type()) && say(`says ${message.text()}`));
    page.on('pageerror', (error) => say(`error ${error.message}`));
    page.on('crash', () => say('crashed'));
    page.on('dialog', (dialog) => {
        say(`asks ${dialog.message()}`);
        dialog.dismiss();
    });
    return trail;
}

// At one page. Of a visit: `url` is what the client wants opened; `password`: signs in at the gateway and not with the
// company; `server`: chooses it; `login`: as whom; `link`: adds the company's account to a
// password; `code`: types it, as a device shows it; `end`: the heading of our page where it ends, or else it ends at `ends`, the beginning of
// a URL, by default the client's redirect URI; `shots`: the folder where pictures of the pages are kept.
export class Person {
    constructor(page, visit) {
        this.page = page;
        this.visit = visit;
        this.login = visit.login ?? LOGIN;
        // The answer to the last request that led the page anywhere.
        page.on('response', (response) => {
            if (response.request().isNavigationRequest()) this.status = response.status();
        });
    }

    async signIn() {
        const { page } = this;
        await page.getByRole('heading', { name: 'Sign in', exact: true }).waitFor();
        await this.shoot('login');
        if (this.visit.password) {
            await page.getByLabel('Name').fill(this.login);
            await page.getByLabel('Password').fill(PASSWORD);
            await page.getByRole('button', { name: 'Sign in', exact: true }).click();
        } else {
            await page.getByRole('link', { name: 'Sign in with Company' }).click();
            await this.tellCompany();
        }
    }

    async tellCompany() {
        await this.page.getByLabel('Account').fill(this.login);
        await this.page.getByRole('button', { name: 'Go on' }).click();
    }

    // Adds the company's account to the ways to sign in, and signs in with it; whom the gateway takes that for.
    async link() {
        const { page } = this;
        const added = page.getByRole('button', { name: 'Add Company' });
        await added.waitFor();
        await this.shoot('signed-in');
        await added.click();
        await page.getByRole('link', { name: 'Go on to Company' }).click();
        await this.tellCompany();
        const yes = page.getByRole('button', { name: 'Add this account' });
        await yes.waitFor();
        await this.shoot('add-account');
        await yes.click();
        // The company still knows the browser.
        await page.getByRole('link', { name: 'Sign in with Company' }).click();
        await page.getByRole('heading', { name: 'Signed in', exact: true }).waitFor();
        return page.locator('main').innerText();
    }

    // Types the code that a device shows.
    async enter() {
        const { page, visit } = this;
        await page.getByRole('heading', { name: 'Connect a device' }).waitFor();
        await page.getByLabel('Code').fill(visit.code);
        await this.shoot('device');
        await page.getByRole('button', { name: 'Go on' }).click();
    }

    // Agrees; what the page said.
    async agree() {
        const { page, visit } = this;
        const heading = visit.code ? 'Allow this device?' : 'Allow this application?';
        await page.getByRole('heading', { name: heading }).waitFor();
        if (visit.server) await page.getByLabel('Choose one').selectOption({ label: visit.server });
        await this.shoot(visit.code ? 'device-consent' : visit.server ? 'choice' : 'consent');
        const asked = await page.locator('main').innerText();
        await page.getByRole('button', { name: 'Allow', exact: true }).click();
        return asked.replaceAll('\n', ' | ');
    }

    // Waits until the browser is where it should be in the end; where that is.
    async end() {
        const { page, visit } = this;
        if (visit.end) {
            await page.getByRole('heading', { name: visit.end }).waitFor();
            if (visit.code) return page.url();
            await this.shoot(visit.end);
            return page.getByRole('link').getAttribute('href');
        }
        const ends = visit.ends ?? new URL(visit.url).searchParams.get('redirect_uri');
        await page.waitForURL((url) => url.href.startsWith(ends), { waitUntil: 'commit' });
        if (this.status >= 400) throw new Error(`the client answered ${this.status}`);
        return page.url();
    }

    async shoot(name) {
        const { page, visit } = this;
        if (!visit.shots) return;
        const box = await page.locator('main').boundingBox();
        const margin = 24;
        const clip = {
            x: box.x - margin, y: Math.max(0, box.y - margin), width: box.width + 2 * margin, height: box.height + 2 * margin,
        };
        for (const colorScheme of ['light', 'dark']) {
            await page.emulateMedia({ colorScheme });
            await page.screenshot({ path: `${visit.shots}/${name.toLowerCase().replaceAll(' ', '-')}-${colorScheme}.png`, clip });
        }
        await page.emulateMedia({ colorScheme: 'light' });
    }
}
