package io.theflash.spark

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.aggregate._
import org.apache.spark.sql.catalyst.plans.logical.{Aggregate, Filter, LogicalPlan, Project}
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.execution.datasources.v2.DataSourceV2Relation
import org.apache.spark.sql.types._

/** Rewrites aggregates of theflash tables into forms that Spark offers to sources.
  *
  * Spark does not offer DISTINCT. The distinct expressions become groups of an inner aggregation,
  * the other aggregates are partial there, and an outer aggregation combines them, as Spark itself
  * would with more stages:
  * {{{
  * count(DISTINCT x), sum(y) by g  =  count(x), sum(s) by g  over  x, g, sum(y) s by x, g
  * }}}
  * Spark computes an average of BIGINT from DOUBLE values, and does not show this to sources.
  */
private[spark] object Regrouped extends Rule[LogicalPlan] {
  override def apply(plan: LogicalPlan): LogicalPlan = plan.transform {
    case aggregate: Aggregate if isRead(aggregate.child) =>
      val plain = averaged(aggregate)
      grouped(plain).getOrElse(plain)
  }

  private def isRead(plan: LogicalPlan): Boolean = plan match {
    case Project(_, child)              => isRead(child)
    case Filter(_, child)               => isRead(child)
    case relation: DataSourceV2Relation => relation.table match {
        case table: TheFlashTable => table.isPushedTo(relation.options)
        case _                    => false
      }
    case _ => false
  }

  private def averaged(aggregate: Aggregate): Aggregate =
    aggregate.transformExpressions {
      case average: Average if average.child.dataType == LongType =>
        average.copy(child = Cast(average.child, DoubleType))
    }.asInstanceOf[Aggregate]

  private def grouped(aggregate: Aggregate): Option[LogicalPlan] = {
    val all = aggregate.aggregateExpressions.flatMap(_.collect { case a: AggregateExpression => a })
    val (distinct, others) = all.partition(_.isDistinct)
    val isSupported = all.forall(_.filter.isEmpty) && distinct.forall(isGroup) &&
      others.forall(isPutTogether) && aggregate.groupingExpressions.forall(_.deterministic)
    val wanted = distinct.map(each => ExpressionSet(each.aggregateFunction.children)).distinct
    Option.when(isSupported && wanted.length == 1)(made(aggregate, wanted.head.toSeq, others))
  }

  private def isGroup(each: AggregateExpression): Boolean =
    (each.aggregateFunction match {
      case _: Count | _: Sum | _: Average => true
      case _                              => false
    }) && each.aggregateFunction.children.forall(child => child.deterministic && !child.foldable)

  /** Whether partial results can be combined with the same type and overflow behavior. */
  private def isPutTogether(each: AggregateExpression): Boolean = each.aggregateFunction match {
    case _: Count | _: Min | _: Max => true
    case sum: Sum => sum.child.dataType match {
        case ByteType | ShortType | IntegerType => true
        case decimal: DecimalType               => decimal.precision <= SumDigits
        case _                                  => false
      }
    case _ => false
  }

  private def made(
      aggregate: Aggregate,
      distinct: Seq[Expression],
      others: Seq[AggregateExpression]
  ): LogicalPlan = {
    val groups = aggregate.groupingExpressions.map(expression => expression -> alias(expression))
    val own = distinct.filterNot(each => groups.exists(_._1.semanticEquals(each)))
    val keys = groups ++ own.map(expression => expression -> alias(expression))
    val parts = others.map(each => each -> Alias(each, "part")())
    val inner = Aggregate(keys.map(_._1), keys.map(_._2) ++ parts.map(_._2), aggregate.child)
    def key(expression: Expression): Option[Attribute] =
      keys.find(_._1.semanticEquals(expression)).map(_._2.toAttribute)
    def put(expression: Expression): Expression = expression match {
      case each: AggregateExpression if each.isDistinct =>
        val function = each.aggregateFunction
        val plain = function.withNewChildren(function.children.map(child => key(child).get))
        each.copy(plain.asInstanceOf[AggregateFunction], isDistinct = false)
      case each: AggregateExpression => together(each, parts.find(_._1 eq each).get._2.toAttribute)
      case named: Alias              => named.mapChildren(put)
      case other                     => key(other).getOrElse(other.mapChildren(put))
    }
    val results = aggregate.aggregateExpressions.map { result =>
      put(result) match {
        case named: NamedExpression if named.exprId == result.exprId => named
        case other => Alias(other, result.name)(result.exprId, result.qualifier)
      }
    }
    Aggregate(groups.map(_._2.toAttribute), results, inner)
  }

  private def alias(expression: Expression): NamedExpression = expression match {
    case attribute: Attribute => attribute
    case other                => Alias(other, "key")()
  }

  private def together(each: AggregateExpression, part: Attribute): Expression = {
    def of(function: AggregateFunction) = each.copy(aggregateFunction = function)
    each.aggregateFunction match {
      case _: Count => Coalesce(Seq(of(Sum(part)), Literal(0L)))
      case sum: Sum =>
        val added = of(sum.copy(child = part))
        if (added.dataType == each.dataType) added else Cast(added, each.dataType)
      case function => of(function.withNewChildren(Seq(part)).asInstanceOf[AggregateFunction])
    }
  }

  /** Most digits of summands; a sum of sums has 20 digits more. */
  private val SumDigits = 18
}
