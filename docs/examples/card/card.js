// A course card: how far the learner who is signed in is, from the warehouse's read API.
//
// `token` may read (`warehouse tokens create card --reads --needs-learner`), and `learner_token` is
// signed by the LMS for the learner: a browser sees what is of its own learner and nothing else.

// An answer that has not changed is not sent again: the browser asks with the ETag by itself.
async function read(path, { url, token, learner_token }) {
  const headers = { Authorization: `Bearer ${token}`, 'Learner-Token': learner_token }
  const response = await fetch(`${url}${path}`, { headers })
  const answer = await response.json()
  if (!response.ok) throw new Error(answer.error)
  return answer
}

export async function show(element, { course_id, title, ...settings }) {
  const path = `/v1/courses/${encodeURIComponent(course_id)}/progress`
  const [course] = (await read(path, settings)).rows
  const done = course?.steps_completed ?? 0
  const heading = document.createElement('h2')
  heading.textContent = title
  const bar = Object.assign(document.createElement('progress'), { value: done, max: course?.steps_total || 1 })
  bar.setAttribute('aria-label', title)
  const words = document.createElement('p')
  words.textContent = course ? `${done} of ${course.steps_total} steps, ${course.status.replace('_', ' ')}` : 'Not started yet'
  element.replaceChildren(heading, bar, words)
}
