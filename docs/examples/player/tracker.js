// Sends VIDEO_PINGs of a <video>: every 10 s of playback, on pause, seek, end and leave. What is
// not on the collector's disk yet waits in localStorage, over reloads and while offline.
export function track(video, { url, token, learner_token, video_id, ...about }) {
  const key = `lms-events-of-${about.user_id}`
  const session_id = crypto.randomUUID()
  let pinged_at = 0
  let sending = false
  const waiting = () => JSON.parse(localStorage.getItem(key) ?? '[]')
  const keep = (events) => localStorage.setItem(key, JSON.stringify(events.slice(-5000)))

  function note() {
    const { currentTime: position_sec, duration: duration_sec, playbackRate: playback_rate } = video
    if (!(duration_sec > 0) || !Number.isFinite(duration_sec)) return // not loaded yet, or live
    pinged_at = position_sec
    const payload = { video_id, position_sec, duration_sec, playback_rate, session_id }
    const fact = { event_id: crypto.randomUUID(), type: 'VIDEO_PING', schema_version: 2 }
    keep([...waiting(), { ...fact, ...about, occurred_at: new Date().toISOString(), payload }])
  }

  async function send() {
    if (sending) return
    sending = true
    try {
      for (let batch; (batch = waiting().slice(0, 500)).length; ) {
        const body = JSON.stringify({ token, learner_token, events: batch })
        const answer = await fetch(url, { method: 'POST', body })
        if (!answer.ok && answer.status !== 403) break // 401, 429, 503: the next ping tries again
        const sent = new Set(batch.map((event) => event.event_id))
        keep(waiting().filter((event) => !sent.has(event.event_id)))
      }
    } catch {} // offline
    sending = false
  }

  // A beacon takes 64 KiB, and nobody hears its answer: what it took stays in the queue, and sent
  // again it is a duplicate by its event_id.
  function leave() {
    note()
    const events = waiting().slice(-100)
    navigator.sendBeacon(url, JSON.stringify({ token, learner_token, events }))
  }

  const ping = () => (note(), send())
  video.ontimeupdate = () => Math.abs(video.currentTime - pinged_at) >= 10 && ping()
  for (const kind of ['pause', 'seeked', 'ended']) video.addEventListener(kind, ping)
  addEventListener('pagehide', leave)
  addEventListener('online', send)
  send()
}
