package io.theflash.spark

import java.util.concurrent.{ScheduledFuture, ScheduledThreadPoolExecutor, TimeUnit}

/** One thread for what happens later. It keeps no JVM alive. */
private[spark] object Background {
  private lazy val executor = {
    val made = new ScheduledThreadPoolExecutor(
      1,
      (task: Runnable) => {
        val thread = new Thread(task, "theflash-background")
        thread.setDaemon(true)
        thread
      }
    )
    made.setRemoveOnCancelPolicy(true)
    made
  }

  def in(delayMs: Long)(task: Runnable): ScheduledFuture[_] =
    executor.schedule(task, delayMs, TimeUnit.MILLISECONDS)

  def every(periodMs: Long)(task: Runnable): ScheduledFuture[_] =
    executor.scheduleWithFixedDelay(task, periodMs, periodMs, TimeUnit.MILLISECONDS)
}
