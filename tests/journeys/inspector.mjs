// A person at the pages of the Inspector: connects to the one server that it knows, and calls a tool.

import { Person } from './person.mjs';

// Of a visit: `inspector` is where its pages are, `tool` and `expect` what to call and what is in the answer.
export async function inspect(page, visit) {
    const person = new Person(page, visit);
    await page.goto(visit.inspector);
    // By the keyboard: what is drawn of it lies above it.
    await page.getByRole('switch', { name: 'Connect or disconnect' }).press('Space');
    await person.signIn();
    const asked = await person.agree();
    await page.getByText('Tools', { exact: true }).first().click();
    await page.getByText(visit.tool, { exact: true }).first().click();
    await page.getByRole('button', { name: 'Execute Tool' }).click();
    await page.getByText(visit.expect).first().waitFor();
    return { asked };
}
