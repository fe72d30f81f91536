// Sends VIDEO_PINGs of a <video>: every 10 s of playback, on pause, seek, end and leave. What is
// not on the collector's disk yet waits in localStorage, over reloads and while offline.
//
// Returns a function that ends it. It ends by itself when the <video> is given another film, or
// to another `track`: no class gets the progress of another one's video.
const trackers = new WeakMap() // the stop function of each <video> that is tracked
const SKEW = 'lms-clock-skew-ms'
const LARGEST_SKEW_MS = 5 * 60 * 1000
const MOST_WAITING = 5000

export function track(video, { url, token, learner_token, video_id, ...about }) {
  trackers.get(video)?.()
  const key = `lms-events-of-${about.user_id}`
  const session_id = uuid()
  const tracking = new AbortController()
  let film = null
  let pinged_at = 0
  let sending = false
  let retry = null
  let unstored = [] // where localStorage is denied or full
  let skew_ms = Number(read(SKEW)) || 0 // how far the collector's clock is ahead of ours

  const stored = () => list(read(key))
  const waiting = () => [...stored(), ...unstored]

  function keep(event) {
    const events = [...stored(), event].slice(-MOST_WAITING)
    if (!write(key, JSON.stringify(events))) unstored = [...unstored, event].slice(-MOST_WAITING)
  }

  function forget(events) {
    const gone = new Set(events.map((event) => event.event_id))
    const left = (event) => !gone.has(event.event_id)
    unstored = unstored.filter(left)
    write(key, JSON.stringify(stored().filter(left)))
  }

  function note() {
    const { currentTime: position_sec, duration: duration_sec, playbackRate: rate } = video
    if (!(duration_sec > 0) || !Number.isFinite(duration_sec)) return // not loaded yet, or live
    film ??= video.currentSrc
    if (film !== video.currentSrc) return tracking.abort()
    pinged_at = position_sec
    const payload = { video_id, position_sec, duration_sec, session_id }
    if (rate > 0) payload.playback_rate = rate // a player that is buffering may say 0
    const fact = { event_id: uuid(), type: 'VIDEO_PING', schema_version: 2, ...about }
    // Corrected here, before the event is made: what is sent again must be equal.
    const correction_ms = Math.abs(skew_ms) > LARGEST_SKEW_MS ? skew_ms : 0
    if (correction_ms) fact.clock_corrected_by_sec = Math.round(correction_ms / 1000)
    const occurred_at = new Date(Date.now() + correction_ms).toISOString()
    keep({ ...fact, occurred_at, payload })
  }

  async function post(events) {
    const body = JSON.stringify({ token, learner_token, events })
    const patience = new AbortController()
    const timer = setTimeout(() => patience.abort(), 15_000)
    try {
      const answer = await fetch(url, { method: 'POST', body, signal: patience.signal })
      await answer.text()
      const theirs = Date.parse(answer.headers.get('Date'))
      if (theirs) write(SKEW, String((skew_ms = theirs - Date.now())))
      return answer
    } finally {
      clearTimeout(timer)
    }
  }

  async function send() {
    if (sending) return
    sending = true
    clearTimeout(retry)
    let wait_sec = 30
    let most = 500
    try {
      for (let batch; (batch = waiting().slice(0, most)).length; ) {
        const answer = await post(batch)
        const unwanted = [400, 413, 415].includes(answer.status)
        if (unwanted && batch.length > 1) {
          most = Math.ceil(batch.length / 2) // until the one that is unwanted stands alone
        } else if (answer.ok || answer.status === 403 || unwanted) {
          forget(batch)
        } else {
          wait_sec = Number(answer.headers.get('Retry-After')) || wait_sec // 401, 429, 503
          break
        }
      }
    } catch {} // offline, or no answer in time
    sending = false
    if (waiting().length) retry = setTimeout(send, 1000 * wait_sec)
  }

  // A beacon takes 64 KiB, and nobody hears its answer: what it took stays in the queue, and sent
  // again it is a duplicate by its event_id.
  function leave() {
    note()
    const events = waiting().slice(-100)
    navigator.sendBeacon(url, JSON.stringify({ token, learner_token, events }))
  }

  function stop() {
    if (tracking.signal.aborted) return
    note()
    tracking.abort()
    send()
  }

  const ping = () => (note(), send())
  const { signal } = tracking
  const on_time = () => Math.abs(video.currentTime - pinged_at) >= 10 && ping()
  video.addEventListener('timeupdate', on_time, { signal })
  for (const kind of ['pause', 'seeked', 'ended']) video.addEventListener(kind, ping, { signal })
  addEventListener('pagehide', leave, { signal })
  addEventListener('online', send)
  trackers.set(video, stop)
  // Its answer tells the time, before the first event is made.
  post([]).catch(() => {}).then(send)
  return stop
}

function read(name) {
  try {
    return localStorage.getItem(name)
  } catch {
    return null
  }
}

function write(name, text) {
  try {
    localStorage.setItem(name, text)
    return true
  } catch {
    return false
  }
}

function list(text) {
  try {
    const found = JSON.parse(text)
    return Array.isArray(found) ? found.filter((event) => event?.event_id) : []
  } catch {
    return []
  }
}

// `crypto.randomUUID` is there only on https.
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  bytes[6] = (bytes[6] & 0x0f) | 0x40
  bytes[8] = (bytes[8] & 0x3f) | 0x80
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
