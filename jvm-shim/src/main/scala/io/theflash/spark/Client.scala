package io.theflash.spark

import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.TimeUnit.MILLISECONDS

import scala.collection.mutable

import com.fasterxml.jackson.databind.JsonNode

/** Client of one place, with a pool of idle connections that are closed after a while. */
private[spark] final class Client(place: Place) {
  import Client._

  private val pool = mutable.ArrayDeque.empty[Connection]
  private var lastServer: Option[Server] = place match {
    case server: Server => Some(server)
    case _: Folder      => None
  }

  /** Executes a read-only call, which is repeated if a pooled connection is dead. */
  def call(method: String, request: JsonNode, timeoutMs: Int = ShortMs): JsonNode =
    withConnection { connection =>
      try connection.call(method, request, timeoutMs)
      finally giveBack(connection)
    }

  /** Starts reading the rows of a split. The caller returns the connection with `giveBack`. */
  def scan(request: JsonNode): DataChannel =
    withConnection { connection =>
      try {
        val data = connection.scan(request)
        val _ = data.hasData()
        data
      } catch {
        case error: Throwable =>
          giveBack(connection)
          throw error
      }
    }

  def giveBack(connection: Connection): Unit = {
    connection.idleSince = System.nanoTime()
    val isKept = synchronized {
      val fits = connection.usable && pool.size < PooledMax
      if (fits) pool.append(connection)
      fits
    }
    if (!isKept) connection.close()
  }

  /** Whether a call can be made without starting a process. */
  def isConnected: Boolean = synchronized(pool.nonEmpty)

  /** Closes idle connections, so that an unused engine process can end. */
  def sweep(): Unit = {
    val now = System.nanoTime()
    val old = synchronized {
      pool.removeAll(each => now - each.idleSince > MILLISECONDS.toNanos(IdleMs))
    }
    old.foreach(_.close())
  }

  private def withConnection[T](ask: Connection => T): T = {
    val pooled = synchronized(pool.removeLastOption())
    try ask(pooled.getOrElse(opened()))
    catch {
      case dead: DeadConnection if pooled.isEmpty => throw dead.seen
      case _: DeadConnection =>
        try ask(opened())
        catch { case dead: DeadConnection => throw dead.seen }
    }
  }

  private def opened(): Connection = {
    val server = synchronized(lastServer)
    (place, server) match {
      case (_: Server, Some(address)) => Connection.open(address)
      case (folder: Folder, Some(address)) =>
        try Connection.open(address)
        catch {
          case error: TheFlashException if error.kind == Errors.Unavailable => started(folder)
        }
      case (folder: Folder, None)  => started(folder)
      case (address: Server, None) => Connection.open(address)
    }
  }

  /** Connects to the engine process. A process that is idle may end meanwhile, hence the retries.
    */
  private def started(folder: Folder, triesLeft: Int = StartTries): Connection = {
    val server = Server(Engine.address(folder), None, None)
    synchronized { lastServer = Some(server) }
    try Connection.open(server)
    catch {
      case error: TheFlashException if error.kind == Errors.Unavailable && triesLeft > 1 =>
        started(folder, triesLeft - 1)
    }
  }
}

private[spark] object Client {
  val ShortMs = 60000
  private val PooledMax = 16
  private val StartTries = 3
  private val IdleMs = 20000L
  private val SweepMs = 5000L
  private val clients = new ConcurrentHashMap[Place, Client]()

  private lazy val sweeper = Background.every(SweepMs)(() => clients.values().forEach(_.sweep()))

  /** The client of a place; there is one in a JVM. */
  def of(place: Place): Client = {
    val _ = sweeper
    clients.computeIfAbsent(place, new Client(_))
  }
}
